// Big integers: 2,000 digits of pi by a spigot over 32-bit limbs, and products of 64-bit limbs with carries (64x64 -> 128).
#define DEFAULT_ITERATIONS 190
#include "kernel.h"

#define LIMBS 256

static uint64_t x[LIMBS], y[LIMBS], product[2 * LIMBS];

static void multiply(uint64_t *out, const uint64_t *a, const uint64_t *b, int count) {
    memset(out, 0, 2 * (size_t)count * sizeof *out);
    for (int i = 0; i < count; i++) {
        uint64_t carry = 0;
        for (int j = 0; j < count; j++) {
            unsigned __int128 t = (unsigned __int128)a[i] * b[j] + out[i + j] + carry;
            out[i + j] = (uint64_t)t;
            carry = (uint64_t)(t >> 64);
        }
        out[i + count] = carry;
    }
}

static uint64_t add(uint64_t *a, const uint64_t *b, int count) {
    uint64_t carry = 0;
    for (int i = 0; i < count; i++) {
        uint64_t s = a[i] + carry;
        carry = s < carry;
        s += b[i];
        carry += s < b[i];
        a[i] = s;
    }
    return carry;
}

static uint32_t divide_small(uint32_t *a, int count, uint32_t divisor) {
    uint64_t rest = 0;
    for (int i = count - 1; i >= 0; i--) {
        rest = rest << 32 | a[i];
        a[i] = (uint32_t)(rest / divisor);
        rest %= divisor;
    }
    return (uint32_t)rest;
}

// The classic spigot: four decimal digits of pi for each pass.
static uint64_t spigot(void) {
    enum { TERMS = 1400 };
    static int32_t f[TERMS + 1];
    uint64_t sum = 0;
    int32_t carry = 0;
    for (int i = 0; i <= TERMS; i++) f[i] = 2000;
    for (int c = TERMS; c > 0; c -= 14) {
        int64_t d = 0;
        for (int b = c;;) {
            d += (int64_t)f[b] * 10000;
            int32_t g = 2 * b - 1;
            f[b] = (int32_t)(d % g);
            d /= g;
            if (--b == 0) break;
            d *= b;
        }
        sum = mix(sum, (uint64_t)(carry + d / 10000));
        carry = (int32_t)(d % 10000);
    }
    return sum;
}

static void setup(void) {
    for (int i = 0; i < LIMBS; i++) x[i] = next_random(), y[i] = next_random();
}

static uint64_t iterate(uint32_t n) {
    uint64_t sum = spigot();
    for (int round = 0; round < 10; round++) {
        multiply(product, x, y, LIMBS);
        sum += add(x, product + LIMBS / 2, LIMBS);
    }
    memcpy(product, x, sizeof x);
    for (int i = 0; i < 16; i++) sum = mix(sum, divide_small((uint32_t *)product, 2 * LIMBS, 1000000007u - n));
    return mix(sum, product[3]);
}
