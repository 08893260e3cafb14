// Sorting: quicksort with a comparison inlined, then a bottom-up merge sort of records through a comparison function.
#define DEFAULT_ITERATIONS 48
#include "kernel.h"

#define COUNT 60000

typedef struct {
    uint32_t key;
    uint32_t payload;
} Record;

static uint32_t numbers[COUNT], work[COUNT];
static Record records[COUNT], scratch[COUNT];

static void quicksort(uint32_t *a, int low, int high) {
    while (high - low > 16) {
        uint32_t x = a[low], y = a[(low + high) / 2], z = a[high];
        uint32_t pivot = x < y ? (y < z ? y : (x < z ? z : x)) : (x < z ? x : (y < z ? z : y));
        int i = low - 1, j = high + 1;
        for (;;) {
            do i++; while (a[i] < pivot);
            do j--; while (a[j] > pivot);
            if (i >= j) break;
            uint32_t t = a[i];
            a[i] = a[j], a[j] = t;
        }
        if (j - low < high - j - 1) {
            quicksort(a, low, j);
            low = j + 1;
        } else {
            quicksort(a, j + 1, high);
            high = j;
        }
    }
    for (int i = low + 1; i <= high; i++) {
        uint32_t value = a[i];
        int j = i - 1;
        while (j >= low && a[j] > value) {
            a[j + 1] = a[j];
            j--;
        }
        a[j + 1] = value;
    }
}

typedef int (*Compare)(const Record *, const Record *);

static NOINLINE int by_key(const Record *a, const Record *b) { return (a->key > b->key) - (a->key < b->key); }
static NOINLINE int by_low_bits(const Record *a, const Record *b) { return (int)(a->key & 0xffff) - (int)(b->key & 0xffff); }
static Compare compares[2] = {by_key, by_low_bits};

static void merge_sort(Record *a, Record *b, int count, Compare compare) {
    Record *from = a, *to = b;
    for (int width = 1; width < count; width *= 2) {
        for (int start = 0; start < count; start += 2 * width) {
            int middle = start + width < count ? start + width : count;
            int end = start + 2 * width < count ? start + 2 * width : count;
            int i = start, j = middle;
            for (int k = start; k < end; k++) {
                if (i < middle && (j >= end || compare(&from[i], &from[j]) <= 0)) to[k] = from[i++];
                else to[k] = from[j++];
            }
        }
        Record *t = from;
        from = to, to = t;
    }
    if (from != a) memcpy(a, from, (size_t)count * sizeof *a);
}

static void setup(void) {
    for (int i = 0; i < COUNT; i++) numbers[i] = (uint32_t)(next_random() >> 32);
}

static uint64_t iterate(uint32_t n) {
    uint64_t sum = 0;
    for (int i = 0; i < COUNT; i++) {
        work[i] = numbers[i] ^ (n * 2654435761u);
        records[i] = (Record){work[i], (uint32_t)i};
    }
    quicksort(work, 0, COUNT - 1);
    merge_sort(records, scratch, COUNT, compares[n & 1]);
    for (int i = 0; i < COUNT; i += 97) sum = mix(sum, (uint64_t)work[i] << 32 | records[i].payload);
    return sum;
}
