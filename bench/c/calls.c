/* calls HOST: times single system calls as their program sees them. One process, which is its own peer.
 *
 * Each line of standard input, "NAME N", is answered with {"NAME": [nanoseconds of N calls]}. The calls of the data
 * path (read and so on), which take no longer than it takes to look at the clock, are timed a hundred at a time. */
#include "bench.h"

enum { BATCH = 100 };

static struct sockaddr_in home;
static int listener, pair[2];

/* A socket to be tried on; what comes before and after the call is not timed. */
static int64_t time_getsockname(void) {
    static int fd = -1;
    fd = fd < 0 ? tcp_socket() : fd;
    struct sockaddr_in name;
    socklen_t size = sizeof name;
    int64_t start = now();
    check(getsockname(fd, (struct sockaddr *)&name, &size) == 0, "getsockname");
    return now() - start;
}

static int64_t time_setsockopt(void) {
    static int fd = -1;
    fd = fd < 0 ? tcp_socket() : fd;
    int on = 1;
    int64_t start = now();
    check(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0, "setsockopt");
    return now() - start;
}

static int64_t time_getsockopt(void) {
    static int fd = -1;
    fd = fd < 0 ? tcp_socket() : fd;
    int on;
    socklen_t size = sizeof on;
    int64_t start = now();
    check(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &size) == 0, "getsockopt");
    return now() - start;
}

static int64_t time_socket(void) {
    int64_t start = now();
    close(tcp_socket());
    return now() - start;
}

static int64_t time_bind(void) {
    struct sockaddr_in address = home;
    address.sin_port = 0;
    int fd = tcp_socket();
    int64_t start = now();
    check(bind(fd, (struct sockaddr *)&address, sizeof address) == 0, "bind");
    int64_t took = now() - start;
    close(fd);
    return took;
}

/* The peer is this process: the connection waits in the queue already when accept(2) comes for it. */
static int64_t time_connection(int64_t *accepting) {
    struct sockaddr_in peer;
    socklen_t size = sizeof peer;
    int fd = tcp_socket();
    int64_t start = now();
    check(connect(fd, (struct sockaddr *)&home, sizeof home) == 0, "connect");
    int64_t connected = now();
    int other = accept(listener, (struct sockaddr *)&peer, &size);
    *accepting = now() - connected;
    check(other >= 0, "accept");
    close(fd); /* the port stays with whoever closes first */
    close(other);
    return connected - start;
}

static int64_t time_connect(void) {
    int64_t accepting;
    return time_connection(&accepting);
}

static int64_t time_accept(void) {
    int64_t accepting;
    time_connection(&accepting);
    return accepting;
}

static int64_t time_read_write(void) {
    char message[MESSAGE] = {0};
    int64_t start = now();
    for (int i = 0; i < BATCH; i++) {
        put(pair[0], message, sizeof message);
        get(pair[1], message, sizeof message);
    }
    return (now() - start) / BATCH;
}

static int64_t time_sendmsg_recvmsg(void) {
    char message[MESSAGE] = {0};
    struct iovec data = {message, sizeof message};
    struct msghdr header = {.msg_iov = &data, .msg_iovlen = 1};
    int64_t start = now();
    for (int i = 0; i < BATCH; i++) {
        check(sendmsg(pair[0], &header, 0) == MESSAGE, "sendmsg");
        check(recvmsg(pair[1], &header, 0) == MESSAGE, "recvmsg");
    }
    return (now() - start) / BATCH;
}

static int64_t time_send_recv(void) {
    char message[MESSAGE] = {0};
    int64_t start = now();
    for (int i = 0; i < BATCH; i++) {
        check(send(pair[0], message, sizeof message, 0) == MESSAGE, "send");
        check(recv(pair[1], message, sizeof message, 0) == MESSAGE, "recv");
    }
    return (now() - start) / BATCH;
}

static const struct {
    const char *name;
    int64_t (*time)(void);
} kinds[] = {
    {"getsockname", time_getsockname},
    {"setsockopt", time_setsockopt},
    {"getsockopt", time_getsockopt},
    {"socket", time_socket},
    {"bind", time_bind},
    {"connect", time_connect},
    {"accept", time_accept},
    {"read", time_read_write},
    {"sendmsg", time_sendmsg_recvmsg},
    {"send", time_send_recv},
};

static void measure(const char *name, long count) {
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        if (strcmp(kinds[k].name, name) == 0) {
            int64_t *taken = list(count);
            for (long i = 0; i < count; i++) {
                taken[i] = kinds[k].time();
            }
            printf("{");
            print_list(name, taken, count);
            printf("}\n");
            fflush(stdout);
            return;
        }
    }
    fprintf(stderr, "no such call: %s\n", name);
    exit(2);
}

int main(int argc, char **argv) {
    char line[256], name[32];
    long count;
    if (argc != 2) {
        return usage("calls HOST");
    }
    home = address_of(argv[1], "0");
    socklen_t size = sizeof home;
    listener = tcp_socket();
    check(bind(listener, (struct sockaddr *)&home, size) == 0 && listen(listener, 16) == 0, "listen");
    check(getsockname(listener, (struct sockaddr *)&home, &size) == 0, "getsockname");
    check(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
    while (fgets(line, sizeof line, stdin) != NULL) {
        check(sscanf(line, "%31s %ld", name, &count) == 2, "NAME N");
        measure(name, count);
    }
    return 0;
}
