// Writes a file in blocks and says how long it took. The same source is compiled natively for the comparison.
//
// Usage: file_write PATH MEGABYTES [BLOCK_BYTES]
// Prints "bytes <n>" and "ns <n>".
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc < 3) return 64;
    uint64_t wanted = (uint64_t)atol(argv[2]) << 20, bytes = 0;
    size_t block_bytes = argc > 3 ? (size_t)atol(argv[3]) : 4096;
    unsigned char *block = malloc(block_bytes);
    int fd = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || !block) {
        perror(argv[1]);
        return 1;
    }
    memset(block, 'p', block_bytes);
    uint64_t start = now_ns();
    while (bytes < wanted) {
        ssize_t put = write(fd, block, block_bytes);
        if (put < 0) {
            perror(argv[1]);
            return 1;
        }
        bytes += (uint64_t)put;
    }
    uint64_t spent = now_ns() - start;
    printf("bytes %llu\nns %llu\n", (unsigned long long)bytes, (unsigned long long)spent);
    return 0;
}
