// A hash map: open addressing with tombstones, 64-bit keys; inserts, finds, removes and one growth by rehashing.
#define DEFAULT_ITERATIONS 75
#include "kernel.h"

#define EMPTY 0
#define REMOVED 1

typedef struct {
    uint64_t key, value;
} Slot;

typedef struct {
    Slot *slots;
    uint32_t mask, used;
} Map;

static inline uint32_t hash(uint64_t key) {
    key ^= key >> 33;
    key *= 0xff51afd7ed558ccdu;
    key ^= key >> 33;
    return (uint32_t)(key * 0xc4ceb9fe1a85ec53u >> 32);
}

static void insert(Map *map, uint64_t key, uint64_t value);

static NOINLINE void grow(Map *map) {
    Slot *old = map->slots;
    uint32_t count = map->mask + 1;
    map->mask = 2 * count - 1, map->used = 0;
    map->slots = calloc(2 * (size_t)count, sizeof *map->slots);
    for (uint32_t i = 0; i < count; i++) {
        if (old[i].key > REMOVED) insert(map, old[i].key, old[i].value);
    }
    free(old);
}

static NOINLINE void insert(Map *map, uint64_t key, uint64_t value) {
    if (map->used * 4 >= map->mask * 3) grow(map);
    uint32_t at = hash(key) & map->mask;
    while (map->slots[at].key > REMOVED && map->slots[at].key != key) at = (at + 1) & map->mask;
    if (map->slots[at].key == EMPTY) map->used++;
    map->slots[at] = (Slot){key, value};
}

static NOINLINE Slot *find(const Map *map, uint64_t key) {
    for (uint32_t at = hash(key) & map->mask; map->slots[at].key != EMPTY; at = (at + 1) & map->mask) {
        if (map->slots[at].key == key) return &map->slots[at];
    }
    return NULL;
}

static void setup(void) {}

static uint64_t iterate(uint32_t n) {
    Map map = {calloc(1 << 16, sizeof(Slot)), (1 << 16) - 1, 0};
    uint64_t sum = 0;
    for (uint64_t i = 0; i < 100000; i++) insert(&map, (i * 0x9e3779b97f4a7c15u >> 20) + 2, i + n);
    for (uint64_t i = 0; i < 200000; i++) {
        Slot *slot = find(&map, ((i * 3 % 150000) * 0x9e3779b97f4a7c15u >> 20) + 2);
        if (slot) sum += slot->value;
        else sum ^= i;
    }
    for (uint64_t i = 0; i < 100000; i += 3) {
        Slot *slot = find(&map, (i * 0x9e3779b97f4a7c15u >> 20) + 2);
        if (slot) slot->key = REMOVED, sum += i;
    }
    for (uint64_t i = 0; i < 100000; i++) sum += find(&map, (i * 0x9e3779b97f4a7c15u >> 20) + 2) != NULL;
    free(map.slots);
    return sum;
}
