// Indirect calls: a stream of operations dispatched through a table of function pointers, in a random and in a sorted order.
#define DEFAULT_ITERATIONS 450
#include "kernel.h"

#define OPERATIONS 250000

typedef uint32_t (*Operation)(uint32_t, uint32_t);

static NOINLINE uint32_t op_add(uint32_t a, uint32_t b) { return a + b; }
static NOINLINE uint32_t op_sub(uint32_t a, uint32_t b) { return a - b; }
static NOINLINE uint32_t op_xor(uint32_t a, uint32_t b) { return a ^ b; }
static NOINLINE uint32_t op_mul(uint32_t a, uint32_t b) { return a * (b | 1); }
static NOINLINE uint32_t op_rotate(uint32_t a, uint32_t b) { return (a << (b & 15)) | (a >> (16 - (b & 15))); }
static NOINLINE uint32_t op_min(uint32_t a, uint32_t b) { return a < b ? a : b ^ a; }
static NOINLINE uint32_t op_average(uint32_t a, uint32_t b) { return (a >> 1) + (b >> 1); }
static NOINLINE uint32_t op_mask(uint32_t a, uint32_t b) { return (a & ~b) | 1; }

static Operation table[8] = {op_add, op_sub, op_xor, op_mul, op_rotate, op_min, op_average, op_mask};
static uint8_t stream[OPERATIONS], sorted[OPERATIONS];

static void setup(void) {
    uint32_t counts[8] = {0}, at = 0;
    for (int i = 0; i < OPERATIONS; i++) counts[stream[i] = (uint8_t)(next_random() >> 61)]++;
    for (int kind = 0; kind < 8; kind++) {
        for (uint32_t i = 0; i < counts[kind]; i++) sorted[at++] = (uint8_t)kind;
    }
}

static NOINLINE uint32_t run(const uint8_t *codes, uint32_t value) {
    for (uint32_t i = 0; i < OPERATIONS; i++) value = table[codes[i]](value, i);
    return value;
}

static uint64_t iterate(uint32_t n) {
    // Most of the stream is predictable, as it is in programs; a quarter of it is not.
    uint32_t value = n;
    if ((n & 3) == 0) value = run(stream, value);
    else value = run(sorted, value);
    return value;
}
