// One trap of each kind, a few frames deep, with names and line information kept, for tests of traps and backtraces.
//
// Usage: trap KIND, where KIND is one of the names below. Nothing is printed: the frames are what a test looks at.
// From the trap outwards the frames are trap_<kind>, inner, outer, _start. It is built without a C library, so that its
// debug information is its own and small.
#include <stddef.h>
#include <stdint.h>

#define NOINLINE __attribute__((noinline))
#define IMPORT(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(name)))

IMPORT("args_sizes_get") uint16_t args_sizes_get(uint32_t *count, uint32_t *bytes);
IMPORT("args_get") uint16_t args_get(char **pointers, char *text);
IMPORT("proc_exit") _Noreturn void proc_exit(uint32_t status);

static volatile int32_t zero = 0;
static volatile int32_t smallest = INT32_MIN;
static volatile double huge = 1e300;
static volatile uint32_t far_away = 0xfffffff0u;
static volatile int32_t sink;

NOINLINE static void trap_unreachable(void) { __builtin_trap(); }

NOINLINE static void trap_divide(void) { sink = 7 / zero; }

NOINLINE static void trap_overflow(void) {
    sink = smallest / (zero - 1);
}

NOINLINE static void trap_remainder(void) { sink = 7 % zero; }

NOINLINE static void trap_truncate(void) {
    int32_t result;
    __asm__("local.get %1\ni32.trunc_f64_s\nlocal.set %0" : "=r"(result) : "r"(huge));
    sink = result;
}

NOINLINE static void trap_load(void) { sink = *(volatile int32_t *)(uintptr_t)far_away; }

NOINLINE static void trap_store(void) { *(volatile int32_t *)(uintptr_t)far_away = 1; }

NOINLINE static void trap_fill(void) {
    uint32_t length = far_away;
    __asm__ volatile("local.get %0\ni32.const 1\nlocal.get %1\nmemory.fill 0" : : "r"(16), "r"(length) : "memory");
}

NOINLINE static int32_t deeper(int32_t n) { return n == zero ? n : deeper(deeper(n + 1) + sink) ^ n; }

NOINLINE static void trap_stack(void) { sink = deeper(1); }

NOINLINE static void trap_null(void) {
    void (*volatile function)(void) = NULL;
    function();
}

NOINLINE static void trap_signature(void) {
    union {
        void (*given)(void);
        int64_t (*wanted)(int64_t, double);
    } function = {.given = trap_divide};
    int64_t (*volatile wanted)(int64_t, double) = function.wanted;
    sink = (int32_t)wanted(1, 2.0);
}

NOINLINE static void trap_table(void) {
    void (*volatile function)(void) = (void (*)(void))(uintptr_t)1000000;
    function();
}

static int is(const char *kind, const char *name) {
    while (*kind && *kind == *name) kind++, name++;
    return *kind == *name;
}

NOINLINE static int inner(const char *kind) {
    if (is(kind, "unreachable")) trap_unreachable();
    else if (is(kind, "divide")) trap_divide();
    else if (is(kind, "overflow")) trap_overflow();
    else if (is(kind, "remainder")) trap_remainder();
    else if (is(kind, "truncate")) trap_truncate();
    else if (is(kind, "load")) trap_load();
    else if (is(kind, "store")) trap_store();
    else if (is(kind, "fill")) trap_fill();
    else if (is(kind, "stack")) trap_stack();
    else if (is(kind, "null")) trap_null();
    else if (is(kind, "signature")) trap_signature();
    else if (is(kind, "table")) trap_table();
    else return 64;
    return sink & 1;
}

NOINLINE static int outer(const char *kind) { return inner(kind) + sink; }

__attribute__((export_name("_start"))) void _start(void) {
    static char *pointers[8], text[256];
    uint32_t count, bytes;
    if (args_sizes_get(&count, &bytes) != 0 || count != 2 || bytes > sizeof text || args_get(pointers, text) != 0) proc_exit(64);
    int status = outer(pointers[1]);
    if (status) proc_exit((uint32_t)status);
}
