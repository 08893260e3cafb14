// SIMD: a 3x3 blur, a brightness curve and a histogram-free edge sum over an 8-bit image, sixteen pixels at a time (v128).
#define DEFAULT_ITERATIONS 3300
#include <wasm_simd128.h>
#include "kernel.h"

#define WIDTH 1024
#define HEIGHT 512

static uint8_t image[HEIGHT][WIDTH + 32], blurred[HEIGHT][WIDTH + 32];

static inline v128_t row_low(const uint8_t *p) {
    v128_t l = wasm_u16x8_load8x8(p - 1), m = wasm_u16x8_load8x8(p), r = wasm_u16x8_load8x8(p + 1);
    return wasm_i16x8_add(wasm_i16x8_add(l, r), wasm_i16x8_shl(m, 1));
}

static void blur(void) {
    for (int y = 1; y + 1 < HEIGHT; y++) {
        for (int x = 16; x < WIDTH + 16; x += 16) {
            v128_t half[2];
            for (int h = 0; h < 2; h++) {
                v128_t up = row_low(&image[y - 1][x + 8 * h]), middle = row_low(&image[y][x + 8 * h]);
                v128_t down = row_low(&image[y + 1][x + 8 * h]);
                v128_t sum = wasm_i16x8_add(wasm_i16x8_add(up, down), wasm_i16x8_shl(middle, 1));
                half[h] = wasm_u16x8_shr(wasm_i16x8_add(sum, wasm_i16x8_const_splat(8)), 4);
            }
            wasm_v128_store(&blurred[y][x], wasm_u8x16_narrow_i16x8(half[0], half[1]));
        }
    }
}

static uint64_t edges(void) {
    v128_t total = wasm_i32x4_const_splat(0);
    for (int y = 1; y + 1 < HEIGHT; y++) {
        for (int x = 16; x < WIDTH + 16; x += 16) {
            v128_t a = wasm_v128_load(&blurred[y][x]), b = wasm_v128_load(&image[y][x]);
            v128_t difference = wasm_v128_or(wasm_u8x16_sub_sat(a, b), wasm_u8x16_sub_sat(b, a));
            v128_t strong = wasm_u8x16_gt(difference, wasm_i8x16_const_splat(24));
            v128_t kept = wasm_v128_and(difference, strong);
            total = wasm_i32x4_add(total, wasm_u32x4_extadd_pairwise_u16x8(wasm_u16x8_extadd_pairwise_u8x16(kept)));
        }
    }
    return (uint64_t)(uint32_t)wasm_i32x4_extract_lane(total, 0) + (uint32_t)wasm_i32x4_extract_lane(total, 1) +
           (uint32_t)wasm_i32x4_extract_lane(total, 2) + (uint32_t)wasm_i32x4_extract_lane(total, 3);
}

static void setup(void) {
    for (int y = 0; y < HEIGHT; y++) {
        for (int x = 0; x < WIDTH + 32; x++) image[y][x] = (uint8_t)(x * y / 64 + (next_random() & 63));
    }
}

static uint64_t iterate(uint32_t n) {
    image[1 + n % (HEIGHT - 2)][16 + n % WIDTH] ^= 0x5a;
    blur();
    return edges();
}
