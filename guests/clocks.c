// Clocks, sleep, poll and random bytes; prints only what is the same on every run.
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ns(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t) < 0) return -1;
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int main(void) {
    int64_t start = now_ns(CLOCK_MONOTONIC);
    int64_t year_2020 = 1577836800;
    printf("realtime %s\n", now_ns(CLOCK_REALTIME) / 1000000000 > year_2020 ? "ok" : "wrong");
    struct timespec resolution;
    printf("resolution %s\n", clock_getres(CLOCK_MONOTONIC, &resolution) == 0 && resolution.tv_nsec > 0 ? "ok" : "wrong");

    struct timespec pause = {0, 20000000};
    nanosleep(&pause, NULL);
    int64_t slept = now_ns(CLOCK_MONOTONIC) - start;
    printf("sleep %s\n", slept >= 20000000 && slept < 2000000000 ? "ok" : "wrong");

    struct pollfd writable = {.fd = 1, .events = POLLOUT};
    printf("poll %s\n", poll(&writable, 1, 1000) == 1 && (writable.revents & POLLOUT) ? "ok" : "wrong");

    unsigned char one[32] = {0}, two[32] = {0};
    printf("random %s\n", getentropy(one, 32) == 0 && getentropy(two, 32) == 0 && memcmp(one, two, 32) != 0 ? "ok" : "wrong");
    return 0;
}
