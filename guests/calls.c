// What a WASI call costs: the four calls that programs make most, each in a loop, straight through the imports.
//
// Usage: calls DIRECTORY [ROUNDS]; the directory must be preopened and writable, a small file is created in it.
// Prints "ns_per_call <name> <value>" for each, with two decimals.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define IMPORT(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(name)))

typedef struct {
    uint8_t *data;
    uint32_t length;
} Buffer;

IMPORT("clock_time_get") uint16_t clock_time_get(uint32_t clock, uint64_t precision, uint64_t *time);
IMPORT("fd_fdstat_get") uint16_t fd_fdstat_get(uint32_t fd, void *stat);
IMPORT("fd_read") uint16_t fd_read(uint32_t fd, const Buffer *buffers, uint32_t count, uint32_t *got);
IMPORT("path_filestat_get")
uint16_t path_filestat_get(uint32_t fd, uint32_t flags, const char *path, uint32_t path_bytes, void *stat);

static uint64_t now_ns(void) {
    uint64_t time = 0;
    clock_time_get(1, 1, &time);
    return time;
}

static void report(const char *name, uint64_t spent_ns, uint32_t rounds) {
    uint64_t hundredths = spent_ns * 100 / rounds;
    printf("ns_per_call %s %llu.%02llu\n", name, (unsigned long long)(hundredths / 100), (unsigned long long)(hundredths % 100));
}

int main(int argc, char **argv) {
    if (argc < 2) return 64;
    uint32_t rounds = argc > 2 ? (uint32_t)atol(argv[2]) : 1000000;
    if (rounds < 10) rounds = 10;
    char path[512];
    snprintf(path, sizeof path, "%s/calls.tmp", argv[1]);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) {
        perror(path);
        return 1;
    }
    static uint8_t block[65536];
    for (uint32_t written = 0; written < rounds; written += sizeof block) {
        if (write(fd, block, sizeof block) != sizeof block) return 1;
    }
    lseek(fd, 0, SEEK_SET);

    uint64_t time, stat[8], start;
    start = now_ns();
    for (uint32_t i = 0; i < rounds; i++) {
        if (clock_time_get(1, 1, &time) != 0) return 1;
    }
    report("clock_time_get", now_ns() - start, rounds);

    start = now_ns();
    for (uint32_t i = 0; i < rounds; i++) {
        if (fd_fdstat_get((uint32_t)fd, stat) != 0) return 1;
    }
    report("fd_fdstat_get", now_ns() - start, rounds);

    Buffer buffer = {block, 1};
    uint32_t got;
    start = now_ns();
    for (uint32_t i = 0; i < rounds; i++) {
        if (fd_read((uint32_t)fd, &buffer, 1, &got) != 0 || got != 1) return 1;
    }
    report("fd_read", now_ns() - start, rounds);

    // The first preopened directory is descriptor 3.
    uint32_t fewer = rounds / 5 + 1;
    start = now_ns();
    for (uint32_t i = 0; i < fewer; i++) {
        if (path_filestat_get(3, 1, "calls.tmp", 9, stat) != 0) return 1;
    }
    report("path_filestat_get", now_ns() - start, fewer);
    unlink(path);
    return 0;
}
