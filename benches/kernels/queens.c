// Backtracking: all solutions of ten queens with bit masks and with arrays, and a knight's tour by depth-first search.
#define DEFAULT_ITERATIONS 220
#include "kernel.h"

static NOINLINE uint32_t by_masks(uint32_t all, uint32_t columns, uint32_t left, uint32_t right) {
    if (columns == all) return 1;
    uint32_t count = 0;
    for (uint32_t open = all & ~(columns | left | right); open; open &= open - 1) {
        uint32_t bit = open & -open;
        count += by_masks(all, columns | bit, (left | bit) << 1, (right | bit) >> 1);
    }
    return count;
}

static int column_of[16];

static int is_free(int row, int column) {
    for (int i = 0; i < row; i++) {
        int d = column_of[i] - column;
        if (d == 0 || d == row - i || d == i - row) return 0;
    }
    return 1;
}

static NOINLINE uint32_t by_array(int size, int row) {
    if (row == size) return 1;
    uint32_t count = 0;
    for (int column = 0; column < size; column++) {
        if (is_free(row, column)) {
            column_of[row] = column;
            count += by_array(size, row + 1);
        }
    }
    return count;
}

static uint8_t visited[64];
static uint32_t steps;

static NOINLINE int tour(int at, int depth) {
    static const int8_t moves[8][2] = {{1, 2}, {2, 1}, {2, -1}, {1, -2}, {-1, -2}, {-2, -1}, {-2, 1}, {-1, 2}};
    if (depth == 36) return 1;
    if (++steps > 60000) return 1;
    for (int i = 0; i < 8; i++) {
        int x = at % 6 + moves[i][0], y = at / 6 + moves[i][1];
        if (x < 0 || y < 0 || x >= 6 || y >= 6 || visited[y * 6 + x]) continue;
        visited[y * 6 + x] = 1;
        if (tour(y * 6 + x, depth + 1)) return 1;
        visited[y * 6 + x] = 0;
    }
    return 0;
}

static void setup(void) {}

static uint64_t iterate(uint32_t n) {
    memset(visited, 0, sizeof visited);
    steps = 0;
    visited[n % 36] = 1;
    tour((int)(n % 36), 1);
    return mix(mix(by_masks((1u << (10 + (n & 1))) - 1, 0, 0, 0), by_array(9, 0)), steps);
}
