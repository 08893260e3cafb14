// SIMD: dot products of f32x4 and f64x2 vectors with several accumulators, and an i16 dot product with widening.
#define DEFAULT_ITERATIONS 25000
#include <wasm_simd128.h>
#include "kernel.h"

#define COUNT 65536

static float x[COUNT], y[COUNT];
static int16_t s[COUNT], t[COUNT];

static double dot_f32(void) {
    v128_t a = wasm_f32x4_const_splat(0), b = a, c = a, d = a;
    for (int i = 0; i < COUNT; i += 16) {
        a = wasm_f32x4_add(a, wasm_f32x4_mul(wasm_v128_load(x + i), wasm_v128_load(y + i)));
        b = wasm_f32x4_add(b, wasm_f32x4_mul(wasm_v128_load(x + i + 4), wasm_v128_load(y + i + 4)));
        c = wasm_f32x4_add(c, wasm_f32x4_mul(wasm_v128_load(x + i + 8), wasm_v128_load(y + i + 8)));
        d = wasm_f32x4_add(d, wasm_f32x4_mul(wasm_v128_load(x + i + 12), wasm_v128_load(y + i + 12)));
    }
    a = wasm_f32x4_add(wasm_f32x4_add(a, b), wasm_f32x4_add(c, d));
    return (double)wasm_f32x4_extract_lane(a, 0) + wasm_f32x4_extract_lane(a, 1) + wasm_f32x4_extract_lane(a, 2) +
           wasm_f32x4_extract_lane(a, 3);
}

static double dot_f64(void) {
    v128_t a = wasm_f64x2_const_splat(0), b = a;
    for (int i = 0; i < COUNT; i += 4) {
        v128_t u = wasm_v128_load(x + i), v = wasm_v128_load(y + i);
        a = wasm_f64x2_add(a, wasm_f64x2_mul(wasm_f64x2_promote_low_f32x4(u), wasm_f64x2_promote_low_f32x4(v)));
        u = wasm_i32x4_shuffle(u, u, 2, 3, 2, 3), v = wasm_i32x4_shuffle(v, v, 2, 3, 2, 3);
        b = wasm_f64x2_add(b, wasm_f64x2_mul(wasm_f64x2_promote_low_f32x4(u), wasm_f64x2_promote_low_f32x4(v)));
    }
    a = wasm_f64x2_add(a, b);
    return wasm_f64x2_extract_lane(a, 0) + wasm_f64x2_extract_lane(a, 1);
}

static uint64_t dot_i16(void) {
    v128_t a = wasm_i32x4_const_splat(0), b = a;
    for (int i = 0; i < COUNT; i += 16) {
        a = wasm_i32x4_add(a, wasm_i32x4_dot_i16x8(wasm_v128_load(s + i), wasm_v128_load(t + i)));
        b = wasm_i32x4_add(b, wasm_i32x4_dot_i16x8(wasm_v128_load(s + i + 8), wasm_v128_load(t + i + 8)));
    }
    a = wasm_i32x4_add(a, b);
    return (uint32_t)(wasm_i32x4_extract_lane(a, 0) + wasm_i32x4_extract_lane(a, 1) + wasm_i32x4_extract_lane(a, 2) +
                      wasm_i32x4_extract_lane(a, 3));
}

static void setup(void) {
    for (int i = 0; i < COUNT; i++) {
        x[i] = (float)(int)(next_random() >> 48) / 65536.0f, y[i] = (float)(int)(next_random() >> 48) / 65536.0f;
        s[i] = (int16_t)(next_random() >> 52), t[i] = (int16_t)(next_random() >> 52);
    }
}

static uint64_t iterate(uint32_t n) {
    x[n % COUNT] += 0.25f, s[n % COUNT] ^= 1;
    return mix(mix(bits_of(dot_f32()), bits_of(dot_f64())), dot_i16());
}
