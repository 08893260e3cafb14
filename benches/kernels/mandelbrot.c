// Mandelbrot: double-precision arithmetic in registers, with a data-dependent loop exit.
#define DEFAULT_ITERATIONS 30
#include "kernel.h"

#define SIZE 320
#define LIMIT 200

static void setup(void) {}

static uint64_t iterate(uint32_t n) {
    uint64_t sum = 0;
    double zoom = 1.0 / (1 + n * 0.01);
    for (int y = 0; y < SIZE; y++) {
        double ci = (2.0 * y / SIZE - 1.0) * zoom;
        for (int x = 0; x < SIZE; x++) {
            double cr = (3.0 * x / SIZE - 2.0) * zoom - 0.2;
            double zr = 0, zi = 0, rr = 0, ii = 0;
            int i = 0;
            while (i < LIMIT && rr + ii < 4.0) {
                zi = 2 * zr * zi + ci;
                zr = rr - ii + cr;
                rr = zr * zr;
                ii = zi * zi;
                i++;
            }
            sum = sum * 3 + (uint64_t)i;
        }
    }
    return sum;
}
