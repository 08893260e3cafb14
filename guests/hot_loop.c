// One call that does not return for long: main holds the loops, so an engine that compiles while it runs has to go over to better code
// in the middle of it. Prints a checksum and "ns <nanoseconds in the loops>".
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SIZE 1024

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv) {
    static uint32_t grid[SIZE * SIZE];
    uint32_t rounds = argc > 1 ? (uint32_t)atoi(argv[1]) : 400;
    uint64_t start = now_ns();
    uint32_t seed = 12345;
    for (uint32_t i = 0; i < SIZE * SIZE; i++) {
        seed = seed * 1664525u + 1013904223u;
        grid[i] = seed >> 8;
    }
    uint64_t sum = 0;
    double weight = 1.0;
    for (uint32_t round = 0; round < rounds; round++) {
        for (uint32_t y = 1; y + 1 < SIZE; y++) {
            uint32_t *row = grid + y * SIZE;
            for (uint32_t x = 1; x + 1 < SIZE; x++) {
                uint32_t mixed = row[x - 1] + row[x + 1] * 3u + row[x - SIZE] + (row[x + SIZE] ^ round);
                row[x] = mixed >> 1 | mixed << 31;
                if (mixed & 1u) sum += mixed;
            }
        }
        weight = weight * 1.0000001 + (double)(sum & 255u);
    }
    uint64_t spent = now_ns() - start;
    printf("checksum %llx %.6f\nns %llu\n", (unsigned long long)sum, weight, (unsigned long long)spent);
    return 0;
}
