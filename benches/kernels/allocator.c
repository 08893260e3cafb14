// Allocation: a binary tree built, rotated and freed node by node through the C library's allocator.
#define DEFAULT_ITERATIONS 32
#include "kernel.h"

#define COUNT 60000

typedef struct Tree {
    struct Tree *left, *right;
    uint32_t key, priority;
    char pad[];
} Tree;

static NOINLINE Tree *rotate_right(Tree *t) {
    Tree *l = t->left;
    t->left = l->right, l->right = t;
    return l;
}

static NOINLINE Tree *rotate_left(Tree *t) {
    Tree *r = t->right;
    t->right = r->left, r->left = t;
    return r;
}

static NOINLINE Tree *insert(Tree *t, uint32_t key) {
    if (!t) {
        uint64_t random = next_random();
        t = malloc(sizeof *t + (random >> 58));
        if (!t) __builtin_trap();
        *t = (Tree){.key = key, .priority = (uint32_t)random};
        return t;
    }
    if (key < t->key) {
        t->left = insert(t->left, key);
        if (t->left->priority > t->priority) return rotate_right(t);
    } else if (key > t->key) {
        t->right = insert(t->right, key);
        if (t->right->priority > t->priority) return rotate_left(t);
    }
    return t;
}

static NOINLINE uint32_t depth_of(const Tree *t) {
    if (!t) return 0;
    uint32_t l = depth_of(t->left), r = depth_of(t->right);
    return 1 + (l > r ? l : r);
}

static NOINLINE uint64_t release(Tree *t, uint64_t sum) {
    if (!t) return sum;
    sum = release(t->left, sum);
    sum = mix(sum, t->key);
    sum = release(t->right, sum);
    free(t);
    return sum;
}

static void setup(void) {}

static uint64_t iterate(uint32_t n) {
    Tree *root = NULL;
    for (uint32_t i = 0; i < COUNT; i++) root = insert(root, (i * 2654435761u) ^ n);
    uint32_t depth = depth_of(root);
    return release(root, depth);
}
