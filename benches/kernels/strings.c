// Strings: splitting into words, changing case, searching for substrings, comparing, reversing and joining; libc's functions and our own.
#define DEFAULT_ITERATIONS 400
#include <ctype.h>
#include "kernel.h"

#define TEXT_BYTES 100000
#define WORDS 24000

static char text[TEXT_BYTES + 1], work[TEXT_BYTES + 1], joined[2 * TEXT_BYTES];
static char *words[WORDS];

static const char *const syllables[16] = {"ka", "lo", "mi", "ter", "sun", "qua", "ven", "o", "rin", "dal", "pe", "xi", "gor", "a", "bel", "thu"};

static void setup(void) {
    size_t at = 0;
    while (at < TEXT_BYTES - 32) {
        for (int i = 1 + (int)(next_random() % 4); i > 0; i--) at += put_text(text + at, syllables[next_random() >> 60]);
        text[at++] = next_random() % 9 ? ' ' : '\n';
    }
    text[at] = 0;
}

static NOINLINE uint32_t split(char *s) {
    uint32_t count = 0;
    while (*s && count < WORDS) {
        while (*s == ' ' || *s == '\n') s++;
        if (!*s) break;
        words[count++] = s;
        while (*s && *s != ' ' && *s != '\n') s++;
        if (*s) *s++ = 0;
    }
    return count;
}

static NOINLINE void reverse(char *s, size_t length) {
    for (size_t i = 0; i < length / 2; i++) {
        char t = s[i];
        s[i] = s[length - 1 - i], s[length - 1 - i] = t;
    }
}

static NOINLINE uint32_t count_of(const char *haystack, const char *needle) {
    uint32_t count = 0;
    size_t length = strlen(needle);
    for (const char *p = haystack; *p; p++) {
        size_t i = 0;
        while (i < length && p[i] == needle[i]) i++;
        count += i == length;
    }
    return count;
}

static NOINLINE int is_palindrome(const char *s, size_t length) {
    for (size_t i = 0; i < length / 2; i++) {
        if (s[i] != s[length - 1 - i]) return 0;
    }
    return 1;
}

static uint64_t iterate(uint32_t n) {
    uint64_t sum = n;
    memcpy(work, text, sizeof text);
    sum = mix(sum, count_of(work, "lomi") + count_of(work, syllables[n & 15]));
    uint32_t count = split(work);
    size_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        char *word = words[i];
        size_t length = strlen(word);
        if (i % 3 == 0) word[0] = (char)toupper((unsigned char)word[0]);
        if (i % 5 == 0) reverse(word, length);
        if (i && strcmp(words[i - 1], word) < 0) sum++;
        if (is_palindrome(word, length)) sum += 3;
        memcpy(joined + at, word, length);
        at += length;
        joined[at++] = i % 10 == 9 ? '\n' : ',';
    }
    joined[at] = 0;
    for (const char *p = joined; (p = memchr(p, '\n', at - (size_t)(p - joined))) != NULL; p++) sum += (uint64_t)(p - joined);
    for (size_t i = 0; i < at; i++) sum = sum * 31 + (uint8_t)joined[i];
    return sum;
}
