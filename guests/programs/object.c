// Compiled by clang, as a guest, to an object file: structures, loops that vectorise badly, a switch, floating point, static data.
#include <stddef.h>
#include <stdint.h>

struct account {
    uint64_t number;
    int64_t cents;
    char holder[24];
};

static const uint16_t weights[8] = {3, 1, 4, 1, 5, 9, 2, 6};

uint32_t checksum(const uint8_t *bytes, size_t length) {
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < length; i++) {
        a = (a + bytes[i] * weights[i & 7]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

int64_t settle(struct account *accounts, size_t count, double rate) {
    int64_t total = 0;
    for (size_t i = 0; i < count; i++) {
        struct account *account = &accounts[i];
        switch (account->number % 4) {
            case 0: account->cents += (int64_t)((double)account->cents * rate); break;
            case 1: account->cents -= 100; break;
            case 2: account->cents = account->cents < 0 ? 0 : account->cents; break;
            default: account->holder[0] = '#';
        }
        total += account->cents;
    }
    return total;
}
