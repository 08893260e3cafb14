// Memory walks: a linked list in a shuffled order (within and beyond the caches), a strided sweep and a column sum.
#define DEFAULT_ITERATIONS 60
#include "kernel.h"

#define NODES 400000
#define GRID 1024

typedef struct Node {
    struct Node *next;
    uint32_t value, pad[5];
} Node;

static Node *nodes, *head, *small_head;
static uint32_t (*grid)[GRID];

static Node *shuffle_into_list(Node *base, uint32_t count) {
    uint32_t *order = malloc(count * sizeof *order);
    for (uint32_t i = 0; i < count; i++) order[i] = i;
    for (uint32_t i = count - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(next_random() % (i + 1)), t = order[i];
        order[i] = order[j], order[j] = t;
    }
    for (uint32_t i = 0; i < count; i++) {
        base[order[i]].next = i + 1 < count ? &base[order[i + 1]] : NULL;
        base[order[i]].value = (uint32_t)next_random();
    }
    Node *first = &base[order[0]];
    free(order);
    return first;
}

static void setup(void) {
    nodes = malloc(NODES * sizeof *nodes);
    grid = malloc(sizeof(uint32_t[GRID][GRID]));
    head = shuffle_into_list(nodes, NODES - 1000);
    small_head = shuffle_into_list(nodes + NODES - 1000, 1000);
    for (int y = 0; y < GRID; y++) {
        for (int x = 0; x < GRID; x++) grid[y][x] = (uint32_t)next_random();
    }
}

static uint64_t iterate(uint32_t n) {
    uint64_t sum = n;
    for (Node *p = head; p; p = p->next) sum += p->value ^ n;
    for (int round = 0; round < 1000; round++) {
        for (Node *p = small_head; p; p = p->next) {
            sum += p->value;
            p->value += 1;
        }
    }
    for (int x = 0; x < GRID; x += 8) {
        uint32_t column = 0;
        for (int y = 0; y < GRID; y++) column += grid[y][x];
        sum = mix(sum, column);
    }
    for (uint32_t stride = 1; stride < 128; stride *= 2) {
        uint32_t *flat = &grid[0][0];
        for (uint32_t i = 0; i < GRID * GRID; i += stride) flat[i] += (uint32_t)sum;
    }
    return sum;
}
