// Parsing: a recursive-descent JSON parser that builds a tree in an arena, then walks it.
#define DEFAULT_ITERATIONS 1000
#include "kernel.h"

#define TEXT_BYTES (1 << 18)
#define NODES 65536

typedef enum { NUL, BOOLEAN, NUMBER, STRING, ARRAY, OBJECT } Kind;

typedef struct Node {
    Kind kind;
    double number;
    const char *text, *key;
    uint32_t text_bytes, key_bytes;
    struct Node *first, *next;
} Node;

static char text[TEXT_BYTES];
static uint32_t text_bytes;
static Node nodes[NODES];
static uint32_t node_count;
static const char *cursor, *end;

static void emit(const char *s) { text_bytes += (uint32_t)put_text(text + text_bytes, s); }

static void emit_value(int depth) {
    switch (depth <= 0 ? 2 + next_random() % 4 : next_random() % 6) {
        case 0:
            emit("[");
            for (int i = 0, count = 1 + (int)(next_random() % 7); i < count; i++) {
                if (i) emit(", ");
                emit_value(depth - 1);
            }
            emit("]");
            break;
        case 1:
            emit("{");
            for (int i = 0, count = 1 + (int)(next_random() % 7); i < count; i++) {
                if (i) emit(",\n  ");
                emit("\"key_");
                text_bytes += (uint32_t)put_decimal(text + text_bytes, next_random() % 1000);
                emit("\": ");
                emit_value(depth - 1);
            }
            emit("}");
            break;
        case 2: emit(next_random() & 1 ? "true" : "false"); break;
        case 3:
            if (next_random() & 1) emit("-");
            text_bytes += (uint32_t)put_decimal(text + text_bytes, next_random() % 1000000);
            emit(".");
            text_bytes += (uint32_t)put_decimal(text + text_bytes, next_random() % 1000);
            if (next_random() & 1) emit("e-3");
            break;
        case 4: emit("\"a string of \\\"some\\\" length \\u0041 and an escape\\n\""); break;
        default: emit("null");
    }
}

static void skip_space(void) {
    while (cursor < end && (*cursor == ' ' || *cursor == '\n' || *cursor == '\t' || *cursor == '\r')) cursor++;
}

static int parse_text(const char **out, uint32_t *bytes) {
    if (*cursor++ != '"') return 0;
    *out = cursor;
    while (cursor < end && *cursor != '"') cursor += *cursor == '\\' ? 2 : 1;
    if (cursor >= end) return 0;
    *bytes = (uint32_t)(cursor++ - *out);
    return 1;
}

static double parse_number(void) {
    int negative = *cursor == '-';
    cursor += negative;
    double value = 0, scale = 1;
    while (*cursor >= '0' && *cursor <= '9') value = value * 10 + (*cursor++ - '0');
    if (*cursor == '.') {
        cursor++;
        while (*cursor >= '0' && *cursor <= '9') {
            value = value * 10 + (*cursor++ - '0');
            scale *= 10;
        }
    }
    if (*cursor == 'e') {
        cursor++;
        int down = *cursor == '-';
        cursor += down;
        int exponent = 0;
        while (*cursor >= '0' && *cursor <= '9') exponent = exponent * 10 + (*cursor++ - '0');
        while (exponent--) scale = down ? scale * 10 : scale / 10;
    }
    value /= scale;
    return negative ? -value : value;
}

static Node *parse_value(void) {
    skip_space();
    if (cursor >= end || node_count == NODES) return NULL;
    Node *node = &nodes[node_count++];
    memset(node, 0, sizeof *node);
    switch (*cursor) {
        case '[':
        case '{': {
            char close = *cursor == '[' ? ']' : '}';
            node->kind = *cursor++ == '[' ? ARRAY : OBJECT;
            Node **link = &node->first;
            for (;;) {
                const char *key = NULL;
                uint32_t key_bytes = 0;
                skip_space();
                if (*cursor == close) break;
                if (node->kind == OBJECT) {
                    if (!parse_text(&key, &key_bytes)) return NULL;
                    skip_space();
                    if (*cursor++ != ':') return NULL;
                }
                Node *child = parse_value();
                if (!child) return NULL;
                child->key = key, child->key_bytes = key_bytes;
                *link = child, link = &child->next;
                skip_space();
                if (*cursor != ',') break;
                cursor++;
            }
            if (*cursor++ != close) return NULL;
            return node;
        }
        case '"':
            node->kind = STRING;
            return parse_text(&node->text, &node->text_bytes) ? node : NULL;
        case 't': node->kind = BOOLEAN, node->number = 1, cursor += 4; return node;
        case 'f': node->kind = BOOLEAN, cursor += 5; return node;
        case 'n': node->kind = NUL, cursor += 4; return node;
        default: node->kind = NUMBER, node->number = parse_number(); return node;
    }
}

static uint64_t walk(const Node *node, uint64_t sum) {
    for (; node; node = node->next) {
        sum = mix(sum, (uint64_t)node->kind);
        for (uint32_t i = 0; i < node->key_bytes; i++) sum = sum * 31 + (uint8_t)node->key[i];
        if (node->kind == NUMBER) sum = mix(sum, bits_of(node->number));
        if (node->kind == STRING) sum += node->text_bytes;
        if (node->first) sum = walk(node->first, sum);
    }
    return sum;
}

static void setup(void) {
    emit("[");
    while (text_bytes < TEXT_BYTES - 65536 && text_bytes < 196608) {
        emit_value(5);
        emit(",\n");
    }
    emit("0]");
    end = text + text_bytes;
}

static uint64_t iterate(uint32_t n) {
    cursor = text, node_count = 0;
    Node *root = parse_value();
    return root ? walk(root, n) : 0xbad;
}
