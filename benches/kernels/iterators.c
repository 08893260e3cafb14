// Rust style: iterator adapters that are not inlined, results returned by pointer with a tag, and slices checked against their length.
#define DEFAULT_ITERATIONS 190
#include "kernel.h"

#define COUNT 100000

typedef struct {
    const uint32_t *data;
    size_t length;
} Slice;

typedef struct {
    uint32_t some;
    uint64_t value;
} Option;

typedef struct Iterator {
    void (*next)(Option *, struct Iterator *);
    struct Iterator *inner;
    uint64_t (*function)(void *, uint64_t);
    void *environment;
    Slice slice;
    size_t at;
    uint64_t left;
} Iterator;

static uint32_t numbers[COUNT];

static NOINLINE uint32_t get(Slice slice, size_t index) {
    if (index >= slice.length) __builtin_trap();
    return slice.data[index];
}

static void slice_next(Option *out, Iterator *self) {
    if (self->at == self->slice.length) {
        out->some = 0;
        return;
    }
    out->some = 1, out->value = get(self->slice, self->at++);
}

static void map_next(Option *out, Iterator *self) {
    Option item;
    self->inner->next(&item, self->inner);
    out->some = item.some;
    if (item.some) out->value = self->function(self->environment, item.value);
}

static void filter_next(Option *out, Iterator *self) {
    for (;;) {
        self->inner->next(out, self->inner);
        if (!out->some || self->function(self->environment, out->value)) return;
    }
}

static void take_next(Option *out, Iterator *self) {
    if (self->left == 0) {
        out->some = 0;
        return;
    }
    self->left--;
    self->inner->next(out, self->inner);
}

static uint64_t scaled(void *environment, uint64_t value) { return value * *(uint64_t *)environment + 7; }
static uint64_t is_wanted(void *environment, uint64_t value) { return (value & 3) != *(uint64_t *)environment; }

static NOINLINE uint64_t fold(Iterator *iterator, uint64_t start) {
    Option item;
    for (;;) {
        iterator->next(&item, iterator);
        if (!item.some) return start;
        start = mix(start, item.value);
    }
}

static void setup(void) {
    for (int i = 0; i < COUNT; i++) numbers[i] = (uint32_t)next_random();
}

static uint64_t iterate(uint32_t n) {
    uint64_t factor = 2 * n + 1, unwanted = n & 3;
    Iterator source = {.next = slice_next, .slice = {numbers, COUNT}};
    Iterator filter = {.next = filter_next, .inner = &source, .function = is_wanted, .environment = &unwanted};
    Iterator map = {.next = map_next, .inner = &filter, .function = scaled, .environment = &factor};
    Iterator take = {.next = take_next, .inner = &map, .left = COUNT};
    return fold(&take, n);
}
