// C++ style: objects of several classes behind tables of virtual functions, small methods and accessors that are not inlined.
#define DEFAULT_ITERATIONS 1000
#include "kernel.h"

#define SHAPES 20000

typedef struct Shape Shape;

typedef struct {
    double (*area)(const Shape *);
    double (*perimeter)(const Shape *);
    void (*scale)(Shape *, double);
    uint32_t (*corners)(const Shape *);
} Class;

struct Shape {
    const Class *class;
    double a, b, c;
};

static double circle_area(const Shape *s) { return 3.141592653589793 * s->a * s->a; }
static double circle_perimeter(const Shape *s) { return 2 * 3.141592653589793 * s->a; }
static void circle_scale(Shape *s, double f) { s->a *= f; }
static uint32_t circle_corners(const Shape *s) { return s->a < 0; }

static double box_area(const Shape *s) { return s->a * s->b; }
static double box_perimeter(const Shape *s) { return 2 * (s->a + s->b); }
static void box_scale(Shape *s, double f) { s->a *= f, s->b *= f; }
static uint32_t box_corners(const Shape *s) { return s->b > s->a ? 4 : 5; }

static double triangle_perimeter(const Shape *s) { return s->a + s->b + s->c; }
static double triangle_area(const Shape *s) {
    double p = triangle_perimeter(s) / 2;
    return __builtin_sqrt(__builtin_fabs(p * (p - s->a) * (p - s->b) * (p - s->c)));
}
static void triangle_scale(Shape *s, double f) { s->a *= f, s->b *= f, s->c *= f; }
static uint32_t triangle_corners(const Shape *s) { return s->c == 0 ? 2 : 3; }

static const Class circle = {circle_area, circle_perimeter, circle_scale, circle_corners};
static const Class box = {box_area, box_perimeter, box_scale, box_corners};
static const Class triangle = {triangle_area, triangle_perimeter, triangle_scale, triangle_corners};

static Shape *shapes[SHAPES];

static void setup(void) {
    for (int i = 0; i < SHAPES; i++) {
        uint64_t random = next_random();
        Shape *s = malloc(sizeof *s);
        s->class = random % 8 < 5 ? &circle : random % 8 < 7 ? &box : &triangle;
        s->a = 1 + (double)(random >> 56), s->b = 1 + (double)(random >> 48 & 255), s->c = 1 + (double)(random >> 40 & 255);
        shapes[i] = s;
    }
}

static NOINLINE double total_area(Shape *const *list, int count) {
    double sum = 0;
    for (int i = 0; i < count; i++) sum += list[i]->class->area(list[i]);
    return sum;
}

static NOINLINE double roundness(const Shape *s) {
    double p = s->class->perimeter(s);
    return s->class->area(s) / (p * p);
}

static uint64_t iterate(uint32_t n) {
    double round = 0;
    uint64_t corners = 0;
    for (int i = 0; i < SHAPES; i++) {
        Shape *s = shapes[i];
        s->class->scale(s, n & 1 ? 2.0 : 0.5);
        round += roundness(s);
        corners += s->class->corners(s);
    }
    return mix(mix(bits_of(total_area(shapes, SHAPES)), bits_of(round)), corners);
}
