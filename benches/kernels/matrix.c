// Matrices: double-precision multiplication (three loops, row order) and an LU decomposition with partial pivoting.
#define DEFAULT_ITERATIONS 300
#include "kernel.h"

#define N 160

static double a[N][N], b[N][N], c[N][N];

static void multiply(void) {
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++) c[i][j] = 0;
        for (int k = 0; k < N; k++) {
            double x = a[i][k];
            for (int j = 0; j < N; j++) c[i][j] += x * b[k][j];
        }
    }
}

static double determinant(void) {
    double result = 1;
    for (int k = 0; k < N; k++) {
        int pivot = k;
        for (int i = k + 1; i < N; i++) {
            if (__builtin_fabs(c[i][k]) > __builtin_fabs(c[pivot][k])) pivot = i;
        }
        if (c[pivot][k] == 0) return 0;
        if (pivot != k) {
            for (int j = 0; j < N; j++) {
                double t = c[k][j];
                c[k][j] = c[pivot][j], c[pivot][j] = t;
            }
            result = -result;
        }
        result *= c[k][k] / 64;
        for (int i = k + 1; i < N; i++) {
            double f = c[i][k] / c[k][k];
            for (int j = k + 1; j < N; j++) c[i][j] -= f * c[k][j];
        }
    }
    return result;
}

static void setup(void) {
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++) {
            a[i][j] = (double)(int64_t)(next_random() >> 40) / 8388608.0 - 1;
            b[i][j] = (double)(int64_t)(next_random() >> 40) / 8388608.0 - 1;
        }
    }
}

static uint64_t iterate(uint32_t n) {
    a[n % N][(n * 7) % N] += 0.125;
    multiply();
    double corner = c[N - 1][N - 1];
    return mix(bits_of(corner), bits_of(determinant()));
}
