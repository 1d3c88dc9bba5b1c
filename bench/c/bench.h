/* What the measured programs share: a clock, addresses, and lists of nanoseconds as JSON. */
#ifndef BENCH_H
#define BENCH_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MESSAGE = 16, CHUNK = 64 << 10 };   /* bytes of a request and of its answer; of a write of a stream */
enum { ECHO = 'e', UP = 'u', DOWN = 'd' }; /* first byte of a connection: see server.c */

static inline void check(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "%s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static inline int usage(const char *words) {
    fprintf(stderr, "usage: %s\n", words);
    return 2;
}

static inline int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline struct sockaddr_in address_of(const char *host, const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    check(inet_pton(AF_INET, host, &address.sin_addr) == 1, host);
    return address;
}

static inline int tcp_socket(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    check(fd >= 0, "socket");
    return fd;
}

static inline int dial(const struct sockaddr_in *to) {
    int fd = tcp_socket();
    check(connect(fd, (const struct sockaddr *)to, sizeof *to) == 0, "connect");
    return fd;
}

static inline void put(int fd, const void *data, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t n = write(fd, (const char *)data + done, size - done);
        check(n > 0, "write");
        done += (size_t)n;
    }
}

static inline void get(int fd, void *data, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t n = read(fd, (char *)data + done, size - done);
        check(n > 0, "read");
        done += (size_t)n;
    }
}

static inline void exchange(int fd) {
    char message[MESSAGE] = {ECHO};
    put(fd, message, sizeof message);
    get(fd, message, sizeof message);
}

static inline int64_t *list(long count) {
    int64_t *values = calloc((size_t)count, sizeof *values);
    check(values != NULL, "calloc");
    return values;
}

/* "name": [values], and frees them. */
static inline void print_list(const char *name, int64_t *values, long count) {
    printf("\"%s\": [", name);
    for (long i = 0; i < count; i++) {
        printf("%s%lld", i ? ", " : "", (long long)values[i]);
    }
    printf("]");
    free(values);
}

#endif
