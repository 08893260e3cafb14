// A stream cipher: ChaCha20 over 64 KiB. Sixteen live 32-bit values, so it shows how a register allocator spills.
#define DEFAULT_ITERATIONS 6000
#include "kernel.h"

#define BYTES 65536

static uint8_t data[BYTES];
static uint32_t key[8];

static inline uint32_t rotate_left(uint32_t x, int n) { return (x << n) | (x >> (32 - n)); }

#define QUARTER(a, b, c, d)                \
    a += b, d = rotate_left(d ^ a, 16);    \
    c += d, b = rotate_left(b ^ c, 12);    \
    a += b, d = rotate_left(d ^ a, 8);     \
    c += d, b = rotate_left(b ^ c, 7)

static void block(uint32_t out[16], uint32_t counter, uint32_t nonce) {
    uint32_t in[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574, key[0], key[1], key[2], key[3],
                       key[4],     key[5],     key[6],     key[7],     counter, nonce, 0,      0};
    uint32_t x0 = in[0], x1 = in[1], x2 = in[2], x3 = in[3], x4 = in[4], x5 = in[5], x6 = in[6], x7 = in[7];
    uint32_t x8 = in[8], x9 = in[9], x10 = in[10], x11 = in[11], x12 = in[12], x13 = in[13], x14 = in[14], x15 = in[15];
    for (int i = 0; i < 10; i++) {
        QUARTER(x0, x4, x8, x12);
        QUARTER(x1, x5, x9, x13);
        QUARTER(x2, x6, x10, x14);
        QUARTER(x3, x7, x11, x15);
        QUARTER(x0, x5, x10, x15);
        QUARTER(x1, x6, x11, x12);
        QUARTER(x2, x7, x8, x13);
        QUARTER(x3, x4, x9, x14);
    }
    uint32_t x[16] = {x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15};
    for (int i = 0; i < 16; i++) out[i] = x[i] + in[i];
}

static void setup(void) {
    for (int i = 0; i < 8; i++) key[i] = (uint32_t)next_random();
    for (int i = 0; i < BYTES; i++) data[i] = (uint8_t)next_random();
}

static uint64_t iterate(uint32_t n) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < BYTES / 64; i++) {
        uint32_t pad[16], part[16];
        block(pad, i, n);
        memcpy(part, data + 64 * i, 64);
        for (int k = 0; k < 16; k++) part[k] ^= pad[k];
        memcpy(data + 64 * i, part, 64);
        sum += (uint64_t)part[0] << 32 | part[15];
    }
    return sum;
}
