// Bodies under gravity: double-precision arithmetic with square roots and divisions, structures in memory.
#define DEFAULT_ITERATIONS 2100
#include "kernel.h"

#define BODIES 8

typedef struct {
    double x, y, z, vx, vy, vz, mass;
} Body;

static Body bodies[BODIES];

static void setup(void) {
    for (int i = 0; i < BODIES; i++) {
        bodies[i].x = (double)(next_random() >> 56), bodies[i].y = (double)(next_random() >> 56), bodies[i].z = (double)(next_random() >> 56);
        bodies[i].mass = 1 + (double)(next_random() >> 60);
    }
}

static NOINLINE void advance(Body *all, int count, double step) {
    for (int i = 0; i < count; i++) {
        for (int j = i + 1; j < count; j++) {
            double dx = all[i].x - all[j].x, dy = all[i].y - all[j].y, dz = all[i].z - all[j].z;
            double square = dx * dx + dy * dy + dz * dz + 0.01;
            double pull = step / (square * __builtin_sqrt(square));
            all[i].vx -= dx * all[j].mass * pull, all[i].vy -= dy * all[j].mass * pull, all[i].vz -= dz * all[j].mass * pull;
            all[j].vx += dx * all[i].mass * pull, all[j].vy += dy * all[i].mass * pull, all[j].vz += dz * all[i].mass * pull;
        }
    }
    for (int i = 0; i < count; i++) {
        all[i].x += step * all[i].vx, all[i].y += step * all[i].vy, all[i].z += step * all[i].vz;
    }
}

static uint64_t iterate(uint32_t n) {
    for (int i = 0; i < 2000; i++) advance(bodies, BODIES, 0.001);
    return bits_of(bodies[n % BODIES].x);
}
