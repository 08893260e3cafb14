// The frame that every kernel shares: the command line, the clock and the two lines of output.
//
// A kernel file defines DEFAULT_ITERATIONS, then includes this header, then defines
//     static void setup(void);             allocates and fills the input; outside the timed part
//     static uint64_t iterate(uint32_t n); one iteration; returns what the checksum takes in
// and prints through nothing but this frame, so that the module stays small and its time is the kernel's own.
//
// Usage: kernel [iterations [curve]]
// Output: "checksum <16 hex digits>" and "ns_per_iteration <integer>"; with a second argument before them up to MAX_POINTS lines
// "point <iterations done> <nanoseconds since the first began>", evenly spaced over the iterations: how the engine warms up.

#ifndef KERNEL_H
#define KERNEL_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

static void setup(void);
// Not inlined, so that an engine that compiles while it runs can go over to better code at the next iteration.
static NOINLINE uint64_t iterate(uint32_t n);

// xorshift64*: every input of every kernel comes from it, so that runs are the same everywhere.
static uint64_t random_state = 0x9e3779b97f4a7c15u;

static inline uint64_t next_random(void) {
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545f4914f6cdd1du;
}

// Takes the bits of a double into a checksum.
static inline uint64_t bits_of(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline uint64_t mix(uint64_t sum, uint64_t value) {
    sum = (sum ^ value) * 0x100000001b3u;
    return sum ^ (sum >> 29);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static size_t put_text(char *out, const char *text) {
    size_t length = strlen(text);
    memcpy(out, text, length);
    return length;
}

static size_t put_hex(char *out, uint64_t value) {
    for (int i = 0; i < 16; i++) out[i] = "0123456789abcdef"[(value >> (60 - 4 * i)) & 15];
    return 16;
}

static size_t put_decimal(char *out, uint64_t value) {
    char digits[20];
    size_t count = 0;
    do {
        digits[count++] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    for (size_t i = 0; i < count; i++) out[i] = digits[count - 1 - i];
    return count;
}

#define MAX_POINTS 2048
static uint64_t points[MAX_POINTS];

static int print(const char *text, size_t length) {
    return write(1, text, length) == (ssize_t)length;
}

static int print_points(uint32_t count, uint32_t stride) {
    char out[64];
    for (uint32_t i = 0; i < count; i++) {
        size_t n = put_text(out, "point ");
        n += put_decimal(out + n, (uint64_t)(i + 1) * stride);
        n += put_text(out + n, " ");
        n += put_decimal(out + n, points[i]);
        n += put_text(out + n, "\n");
        if (!print(out, n)) return 0;
    }
    return 1;
}

int main(int argc, char **argv) {
    uint32_t iterations = DEFAULT_ITERATIONS;
    if (argc > 1) {
        iterations = 0;
        for (const char *p = argv[1]; *p; p++) {
            if (*p < '0' || *p > '9') return 2;
            iterations = iterations * 10 + (uint32_t)(*p - '0');
        }
    }
    if (iterations == 0) return 2;
    setup();
    uint64_t checksum = 0xcbf29ce484222325u;
    uint64_t start = now_ns();
    if (argc > 2) {
        uint32_t stride = (iterations + MAX_POINTS - 1) / MAX_POINTS, count = 0;
        for (uint32_t i = 0; i < iterations; i++) {
            checksum = mix(checksum, iterate(i));
            if ((i + 1) % stride == 0) points[count++] = now_ns() - start;
        }
        if (!print_points(count, stride)) return 1;
    } else {
        for (uint32_t i = 0; i < iterations; i++) checksum = mix(checksum, iterate(i));
    }
    uint64_t spent = now_ns() - start;

    char out[96];
    size_t n = put_text(out, "checksum ");
    n += put_hex(out + n, checksum);
    n += put_text(out + n, "\nns_per_iteration ");
    n += put_decimal(out + n, spent / iterations);
    n += put_text(out + n, "\n");
    return print(out, n) ? 0 : 1;
}

#endif
