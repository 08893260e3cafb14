// Reads a file in blocks and says how long it took. The same source is compiled natively for the comparison.
//
// Usage: file_read PATH [BLOCK_BYTES]
// Prints "bytes <n>", "checksum <n>" (the first byte of each block, summed) and "ns <n>".
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc < 2) return 64;
    size_t block_bytes = argc > 2 ? (size_t)atol(argv[2]) : 4096;
    unsigned char *block = malloc(block_bytes);
    int fd = open(argv[1], O_RDONLY);
    if (fd < 0 || !block) {
        perror(argv[1]);
        return 1;
    }
    uint64_t bytes = 0, checksum = 0, start = now_ns();
    ssize_t got;
    while ((got = read(fd, block, block_bytes)) > 0) {
        bytes += (uint64_t)got;
        checksum += block[0];
    }
    uint64_t spent = now_ns() - start;
    if (got < 0) {
        perror(argv[1]);
        return 1;
    }
    printf("bytes %llu\nchecksum %llu\nns %llu\n", (unsigned long long)bytes, (unsigned long long)checksum, (unsigned long long)spent);
    return 0;
}
