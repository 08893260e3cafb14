// Calls: Fibonacci, Ackermann and Takeuchi, where nearly all of the time is calling and returning.
#define DEFAULT_ITERATIONS 62
#include "kernel.h"

static NOINLINE uint32_t fibonacci(uint32_t n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

static NOINLINE uint32_t ackermann(uint32_t m, uint32_t n) {
    if (m == 0) return n + 1;
    if (n == 0) return ackermann(m - 1, 1);
    uint32_t inner = ackermann(m, n - 1);
    return ackermann(m - 1, inner);
}

static NOINLINE int takeuchi(int x, int y, int z) {
    if (y >= x) return z;
    return takeuchi(takeuchi(x - 1, y, z), takeuchi(y - 1, z, x), takeuchi(z - 1, x, y));
}

static void setup(void) {}

static uint64_t iterate(uint32_t n) {
    return fibonacci(29 + (n & 1)) + ackermann(2, 300 + (n & 7)) + (uint64_t)takeuchi(16, 10, (int)(n & 3));
}
