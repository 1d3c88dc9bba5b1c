/* Loads of threads that block, one for each connection: begin together, end when the time is over. */
#ifndef WORKERS_H
#define WORKERS_H

#include "timings.h"
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum { MOST = 1 << 20 }; /* latencies of one thread; what is beyond is not timed */

struct worker {
    pthread_t thread;
    int64_t *taken;
    size_t count, errors;
};

static int64_t warm_at, end_at;

/* A request that began then is answered, or failed, now. Whether to make another one. */
static inline int done(struct worker *self, int64_t began, int failed) {
    int64_t time = now_ns();
    self->errors += (size_t)failed;
    if (!failed && began >= warm_at && time <= end_at && self->count < MOST) {
        self->taken[self->count++] = time - began;
    }
    return time < end_at && self->errors < 1000;
}

/* Runs `work` in so many threads for `seconds` after a warm-up of half a second, prints what came of it. An exit status. */
static inline int work_together(void *(*work)(void *), int threads, double seconds) {
    struct worker *all = (struct worker *)calloc((size_t)threads, sizeof *all);
    size_t count = 0, errors = 0;
    warm_at = now_ns() + 500000000;
    end_at = warm_at + (int64_t)(seconds * 1e9);
    for (int i = 0; i < threads; i++) {
        all[i].taken = (int64_t *)malloc(MOST * sizeof(int64_t)); /* untouched pages cost nothing */
        if (pthread_create(&all[i].thread, NULL, work, &all[i])) {
            perror("pthread_create");
            return 1;
        }
    }
    mark(warm_at, end_at);
    for (int i = 0; i < threads; i++) {
        pthread_join(all[i].thread, NULL);
        count += all[i].count;
        errors += all[i].errors;
    }
    int64_t *taken = (int64_t *)malloc((count + 1) * sizeof *taken);
    size_t filled = 0;
    for (int i = 0; i < threads; i++) {
        memcpy(taken + filled, all[i].taken, all[i].count * sizeof *taken);
        filled += all[i].count;
    }
    print_timings(taken, count, (double)count / seconds, count, errors);
    return count == 0;
}

#endif
