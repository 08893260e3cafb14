// Compression: an LZ77 byte format with a hash table of four-byte strings; compresses, expands and compares.
#define DEFAULT_ITERATIONS 300
#include "kernel.h"

#define INPUT_BYTES 400000
#define HASH_BITS 14

static uint8_t input[INPUT_BYTES + 8], packed[INPUT_BYTES + INPUT_BYTES / 16 + 64], output[INPUT_BYTES + 8];
static uint32_t table[1 << HASH_BITS];

static inline uint32_t load4(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static uint8_t *put_length(uint8_t *out, uint32_t length) {
    while (length >= 255) *out++ = 255, length -= 255;
    *out++ = (uint8_t)length;
    return out;
}

// A token holds four bits of literal count and four of match length less 4; then the literals, then the distance (two bytes).
static uint32_t compress(uint8_t *out) {
    uint8_t *start = out;
    uint32_t at = 0, literal = 0;
    memset(table, 0, sizeof table);
    while (at + 12 < INPUT_BYTES) {
        uint32_t h = load4(input + at) * 2654435761u >> (32 - HASH_BITS);
        uint32_t candidate = table[h];
        table[h] = at;
        if (candidate >= at || at - candidate > 65535 || load4(input + candidate) != load4(input + at)) {
            at += 1 + ((at - literal) >> 6);
            continue;
        }
        uint32_t length = 4;
        while (at + length < INPUT_BYTES - 8 && input[candidate + length] == input[at + length]) length++;
        uint32_t literals = at - literal, extra = length - 4;
        *out++ = (uint8_t)((literals < 15 ? literals : 15) << 4 | (extra < 15 ? extra : 15));
        if (literals >= 15) out = put_length(out, literals - 15);
        memcpy(out, input + literal, literals);
        out += literals;
        *out++ = (uint8_t)(at - candidate), *out++ = (uint8_t)((at - candidate) >> 8);
        if (extra >= 15) out = put_length(out, extra - 15);
        at += length, literal = at;
    }
    uint32_t literals = INPUT_BYTES - literal;
    *out++ = (uint8_t)((literals < 15 ? literals : 15) << 4);
    if (literals >= 15) out = put_length(out, literals - 15);
    memcpy(out, input + literal, literals);
    return (uint32_t)(out + literals - start);
}

static uint32_t expand(const uint8_t *in, uint32_t in_bytes) {
    const uint8_t *end = in + in_bytes;
    uint8_t *out = output;
    for (;;) {
        uint32_t token = *in++, literals = token >> 4, length = token & 15;
        if (literals == 15) {
            do literals += *in; while (*in++ == 255);
        }
        for (uint32_t i = 0; i < literals; i++) *out++ = *in++;
        if (in >= end) return (uint32_t)(out - output);
        uint32_t distance = in[0] | in[1] << 8;
        in += 2;
        if (length == 15) {
            do length += *in; while (*in++ == 255);
        }
        const uint8_t *from = out - distance;
        for (length += 4; length; length--) *out++ = *from++;
    }
}

static void setup(void) {
    static const char *const phrases[8] = {"the quick brown fox ", "jumps over ", "a lazy dog; ", "<div class=\"item\">", "</div>\n", "0123456789", "return 0;\n", "    "};
    uint32_t at = 0;
    while (at < INPUT_BYTES - 64) {
        uint64_t random = next_random();
        if (random % 4) at += (uint32_t)put_text((char *)input + at, phrases[random >> 61]);
        else for (int i = 0; i < 12; i++) input[at++] = (uint8_t)(next_random() >> 58) + 32;
    }
}

static uint64_t iterate(uint32_t n) {
    input[(n * 7919) % INPUT_BYTES] ^= 1;
    uint32_t packed_bytes = compress(packed);
    uint32_t bytes = expand(packed, packed_bytes);
    if (bytes != INPUT_BYTES || memcmp(input, output, INPUT_BYTES) != 0) return 0xbad;
    return packed_bytes;
}
