/* load serve HOST PORT: accepts everybody, echoes, closes when its client does. Prints the port when it listens.
 * load accept HOST PORT PROCESSES: so many processes in accept(2) on one listener; each says its number, and closes.
 * load client HOST PORT: obeys the lines of standard input, and answers each with a line of JSON.
 *
 *   pace RATE SECONDS     so many connections a second, each with one round trip; those that are late follow without a
 *                         pause, and those that are not made when the time is up are not made
 *   greedy THREADS        as many threads that connect and close without a pause, until `calm`
 *   hold N                N more connections that stay, or as many as can be had
 *   drop                  close those
 *   meet N                N connections in turn to a crowd of `load accept`; `shares` tells how many each process got
 *   bomb N PARALLEL       N processes, so many at a time, that connect, say one thing, and end
 *
 * Times are in nanoseconds. A call that fails is counted by its errno, and nothing else stops for it. */
#include "bench.h"
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

enum { ERRNOS = 134, STACK = 64 << 10, CROWD = 4096 };

static struct sockaddr_in server;
static long failures[ERRNOS];

static void failed(int error) { failures[error > 0 && error < ERRNOS ? error : 0]++; }

static void print_failures(void) {
    const char *comma = "";
    printf("\"failed\": {");
    for (int i = 0; i < ERRNOS; i++) {
        if (failures[i]) {
            printf("%s\"%d\": %ld", comma, i, failures[i]);
            comma = ", ";
        }
        failures[i] = 0;
    }
    printf("}}\n");
}

static void as_many_descriptors_as_may_be(void) {
    struct rlimit limit;
    check(getrlimit(RLIMIT_NOFILE, &limit) == 0, "getrlimit");
    limit.rlim_cur = limit.rlim_max;
    check(setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit");
}

static int listening(const char *host, const char *port) {
    struct sockaddr_in address = address_of(host, port);
    socklen_t size = sizeof address;
    int fd = tcp_socket();
    check(bind(fd, (struct sockaddr *)&address, size) == 0, "bind");
    check(listen(fd, 4096) == 0, "listen");
    check(getsockname(fd, (struct sockaddr *)&address, &size) == 0, "getsockname");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

/* -- the servers */

static void watch(int epoll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    check(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
}

static void serve(int listener) {
    int epoll = epoll_create1(0);
    struct epoll_event events[64];
    char message[MESSAGE];
    watch(epoll, listener);
    for (;;) {
        int count = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int made = accept(listener, NULL, NULL);
                if (made >= 0) {
                    watch(epoll, made);
                }
                continue;
            }
            ssize_t n = read(fd, message, sizeof message);
            if (n <= 0 || write(fd, message, (size_t)n) != n) {
                close(fd);
            }
        }
    }
}

static void accept_for_ever(int listener, int number) {
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        check(fd >= 0, "accept");
        put(fd, &number, sizeof number);
        close(fd);
    }
}

static void accept_in(int listener, int processes) {
    for (int i = 1; i < processes; i++) {
        pid_t child = fork();
        check(child >= 0, "fork");
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            accept_for_ever(listener, i);
        }
    }
    accept_for_ever(listener, 0);
}

/* -- the client */

static int ascending(const void *one, const void *other) {
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;
    return (a > b) - (a < b);
}

/* One connection with one round trip; nanoseconds of connect(2) and the socket(2) before it, or -1. */
static int64_t once(void) {
    char message[MESSAGE] = {ECHO};
    int64_t start = now(), took = -1;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) {
        failed(errno);
        return -1;
    }
    if (connect(fd, (const struct sockaddr *)&server, sizeof server) < 0) {
        failed(errno);
    } else {
        took = now() - start;
        if (write(fd, message, sizeof message) != sizeof message || read(fd, message, sizeof message) <= 0) {
            failed(errno);
            took = -1;
        }
    }
    close(fd);
    return took;
}

static void pace(long rate, long seconds) {
    long count = rate * seconds, made = 0;
    int64_t *took = list(count), start = now();
    for (long i = 0; i < count && now() - start < seconds * 1000000000; i++) {
        int64_t due = start + i * 1000000000 / rate;
        struct timespec at = {due / 1000000000, due % 1000000000};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
        int64_t one = once();
        if (one >= 0) {
            took[made++] = one;
        }
    }
    int64_t whole = now() - start;
    qsort(took, (size_t)made, sizeof *took, ascending);
    printf("{\"made\": %ld, \"took\": %lld, ", made, (long long)whole);
    if (made) {
        printf("\"p50\": %lld, \"p99\": %lld, \"p999\": %lld, \"max\": %lld, ", (long long)took[made / 2],
               (long long)took[made * 99 / 100], (long long)took[made * 999 / 1000], (long long)took[made - 1]);
    }
    free(took);
    print_failures();
}

static long shares[CROWD];
static int crowd;

static void meet(long count) {
    long made = 0;
    for (long i = 0; i < count; i++) {
        int number = -1, fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (const struct sockaddr *)&server, sizeof server) < 0 ||
            read(fd, &number, sizeof number) != sizeof number || number < 0 || number >= CROWD) {
            failed(errno);
        } else {
            shares[number]++;
            crowd = number >= crowd ? number + 1 : crowd;
            made++;
        }
        close(fd);
    }
    printf("{\"made\": %ld, ", made);
    print_failures();
}

static void print_shares(void) {
    printf("{\"shares\": [");
    for (int i = 0; i < crowd; i++) {
        printf("%s%ld", i ? ", " : "", shares[i]);
    }
    printf("]}\n");
}

static atomic_bool calm;
static atomic_long greedily;

static void *grab(void *unused) {
    while (!calm) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd >= 0 && connect(fd, (const struct sockaddr *)&server, sizeof server) == 0) {
            greedily++;
        }
        close(fd);
    }
    return unused;
}

static void greedy(int threads) {
    char line[64];
    pthread_t *all = calloc((size_t)threads, sizeof *all);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, STACK);
    calm = 0;
    greedily = 0;
    for (int i = 0; i < threads; i++) {
        check((errno = pthread_create(&all[i], &small, grab, NULL)) == 0, "pthread_create");
    }
    printf("{\"threads\": %d}\n", threads);
    fflush(stdout);
    check(fgets(line, sizeof line, stdin) != NULL, "calm");
    calm = 1;
    for (int i = 0; i < threads; i++) {
        pthread_join(all[i], NULL);
    }
    free(all);
    printf("{\"made\": %ld}\n", (long)greedily);
}

static int *held;
static long holding;

static void hold(long more) {
    long wanted = holding + more;
    int error = 0;
    held = realloc(held, (size_t)wanted * sizeof *held);
    check(held != NULL, "realloc");
    while (holding < wanted && !error) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, (const struct sockaddr *)&server, sizeof server) < 0) {
            error = errno;
            close(fd);
        } else {
            held[holding++] = fd;
        }
    }
    printf("{\"held\": %ld, \"error\": %d}\n", holding, error);
}

static void drop(void) {
    while (holding) {
        close(held[--holding]);
    }
    printf("{\"held\": 0}\n");
}

static void bomb(long count, long parallel) {
    long begun = 0, ended = 0, bad = 0;
    int64_t start = now();
    while (ended < count) {
        while (begun < count && begun - ended < parallel) {
            pid_t child = fork();
            check(child >= 0, "fork");
            if (child == 0) {
                _exit(once() < 0);
            }
            begun++;
        }
        int status;
        check(wait(&status) > 0, "wait");
        bad += status != 0;
        ended++;
    }
    printf("{\"ran\": %ld, \"bad\": %ld, \"took\": %lld}\n", ended, bad, (long long)(now() - start));
}

static int obey(void) {
    char line[256];
    long one, two;
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (sscanf(line, "pace %ld %ld", &one, &two) == 2) {
            pace(one, two);
        } else if (sscanf(line, "greedy %ld", &one) == 1) {
            greedy((int)one);
        } else if (sscanf(line, "hold %ld", &one) == 1) {
            hold(one);
        } else if (strcmp(line, "drop\n") == 0) {
            drop();
        } else if (sscanf(line, "meet %ld", &one) == 1) {
            meet(one);
        } else if (strcmp(line, "shares\n") == 0) {
            print_shares();
        } else if (sscanf(line, "bomb %ld %ld", &one, &two) == 2) {
            bomb(one, two);
        } else {
            fprintf(stderr, "no such command: %s", line);
            return 2;
        }
        fflush(stdout);
    }
    return 0;
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    as_many_descriptors_as_may_be();
    if (argc == 4 && strcmp(argv[1], "serve") == 0) {
        serve(listening(argv[2], argv[3]));
    } else if (argc == 5 && strcmp(argv[1], "accept") == 0) {
        accept_in(listening(argv[2], argv[3]), atoi(argv[4]));
    } else if (argc == 4 && strcmp(argv[1], "client") == 0) {
        server = address_of(argv[2], argv[3]);
        return obey();
    }
    return usage("load serve HOST PORT | load accept HOST PORT PROCESSES | load client HOST PORT");
}
