/* What the loads share: a clock, and latencies as one line of JSON. C and C++. */
#ifndef TIMINGS_H
#define TIMINGS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Of which the latency is told, in thousandths. */
static const int QUANTILES[] = {1, 10, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 950, 980, 990, 995, 999};

static inline int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline int by_size(const void *one, const void *other) {
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;
    return (a > b) - (a < b);
}

static inline void sleep_until(int64_t time) {
    struct timespec until = {.tv_sec = time / 1000000000, .tv_nsec = time % 1000000000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

/* Tells bench/mesh/runner.py from when to when processor time counts. */
static inline void mark(int64_t begin, int64_t end) {
    sleep_until(begin);
    printf("begin\n");
    fflush(stdout);
    sleep_until(end);
    printf("end\n");
    fflush(stdout);
}

/* Sorts. Latencies are in nanoseconds, `rate` is a second's; `requests` were answered
 * between the marks, `errors` failed at any time. */
static inline void print_timings(int64_t *taken, size_t count, double rate, size_t requests, size_t errors) {
    qsort(taken, count, sizeof *taken, by_size);
    printf("{\"rate\": %.1f, \"requests\": %zu, \"errors\": %zu, \"curve\": [", rate, requests, errors);
    for (size_t i = 0; count && i < sizeof QUANTILES / sizeof *QUANTILES; i++) {
        size_t rank = (size_t)QUANTILES[i] * count / 1000;
        printf("%s[%g, %.4f]", i ? ", " : "", QUANTILES[i] / 1000.0, taken[rank] / 1e6);
    }
    printf("]}\n");
}

#endif
