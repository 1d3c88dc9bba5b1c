/* datagrams [filtered] serve HOST: two UDP echo servers. Prints their ports: one that answers with sendto(2), and one that connects
 * to whoever sends to it first, and goes back to all when it gets an empty datagram.
 *
 * datagrams [filtered] ask HOST PORT PORT: obeys the lines of standard input, and answers each with a line of JSON (nanoseconds).
 *
 *   connected N      round trips with send(2) and recv(2) at both ends
 *   client N         the same with a server that answers with sendto(2)
 *   unconnected N    sendto(2) and recvfrom(2) at both ends
 *
 * filtered: behind a seccomp filter that allows everything, which is what any filter costs at least.
 */
#include "bench.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>

static int udp_socket(void) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    check(fd >= 0, "socket");
    return fd;
}

static int port_of(int fd) {
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    check(getsockname(fd, (struct sockaddr *)&address, &size) == 0, "getsockname");
    return ntohs(address.sin_port);
}

/* To a port that was free a moment ago: one that the kernel has chosen is lost when a connected socket is disconnected
 * (connect(2), AF_UNSPEC). */
static int bound(const char *host) {
    struct sockaddr_in address = address_of(host, "0");
    for (int round = 0;; round++) {
        int fd = udp_socket();
        check(bind(fd, (struct sockaddr *)&address, sizeof address) == 0, "bind");
        if (round == 1) {
            return fd;
        }
        address.sin_port = htons((uint16_t)port_of(fd));
        close(fd);
    }
}

static void answer_all(int fd) {
    char buffer[2048];
    struct sockaddr_in from;
    for (;;) {
        socklen_t size = sizeof from;
        ssize_t got = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &size);
        check(got >= 0, "recvfrom");
        check(sendto(fd, buffer, (size_t)got, 0, (struct sockaddr *)&from, size) == got, "sendto");
    }
}

static void answer_one(int fd) {
    char buffer[2048];
    struct sockaddr_in from;
    const struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    for (;;) {
        socklen_t size = sizeof from;
        ssize_t got = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &size);
        check(got >= 0, "recvfrom");
        check(connect(fd, (struct sockaddr *)&from, size) == 0, "connect");
        while (got > 0) {
            check(send(fd, buffer, (size_t)got, 0) == got, "send");
            got = recv(fd, buffer, sizeof buffer, 0);
            check(got >= 0, "recv");
        }
        check(connect(fd, &nobody, sizeof nobody) == 0, "disconnect");
        check(sendto(fd, buffer, 0, 0, (struct sockaddr *)&from, size) == 0, "sendto"); /* others may come now */
    }
}

static int serve(const char *host) {
    int all = bound(host), one = bound(host);
    pid_t parent = getpid();
    printf("%d %d\n", port_of(all), port_of(one));
    fflush(stdout);
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) {
            return 0;
        }
        answer_one(one);
    }
    answer_all(all);
    return 0;
}

static void rounds(struct sockaddr_in *to, int connected, int dismiss, long count) {
    int64_t *round = list(count);
    char message[MESSAGE] = {ECHO};
    const struct timeval patience = {.tv_sec = 10};
    int fd = udp_socket();
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connected) {
        check(connect(fd, (struct sockaddr *)to, sizeof *to) == 0, "connect");
    }
    for (long i = 0; i < count; i++) {
        struct sockaddr_in from;
        socklen_t size = sizeof from;
        int64_t start = now();
        if (connected) {
            check(send(fd, message, sizeof message, 0) == MESSAGE, "send");
            check(recv(fd, message, sizeof message, 0) == MESSAGE, "recv");
        } else {
            check(sendto(fd, message, sizeof message, 0, (struct sockaddr *)to, sizeof *to) == MESSAGE, "sendto");
            check(recvfrom(fd, message, sizeof message, 0, (struct sockaddr *)&from, &size) == MESSAGE, "recvfrom");
        }
        round[i] = now() - start;
    }
    if (dismiss) {
        check(send(fd, message, 0, 0) == 0, "send");
        check(recv(fd, message, sizeof message, 0) == 0, "recv");
    }
    close(fd);
    printf("{");
    print_list("round", round, count);
    printf("}\n");
}

static void allow_everything(void) {
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    const struct sock_fprog program = {.len = 1, .filter = &allow};
    check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "PR_SET_NO_NEW_PRIVS");
    check(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "PR_SET_SECCOMP");
}

int main(int argc, char **argv) {
    char line[256];
    long count;
    if (argc > 1 && strcmp(argv[1], "filtered") == 0) {
        allow_everything();
        argc--;
        argv++;
    }
    if (argc == 3 && strcmp(argv[1], "serve") == 0) {
        return serve(argv[2]);
    }
    if (argc != 5 || strcmp(argv[1], "ask") != 0) {
        return usage("datagrams [filtered] serve HOST | [filtered] ask HOST PORT PORT");
    }
    struct sockaddr_in all = address_of(argv[2], argv[3]), one = address_of(argv[2], argv[4]);
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (sscanf(line, "connected %ld", &count) == 1) {
            rounds(&one, 1, 1, count);
        } else if (sscanf(line, "client %ld", &count) == 1) {
            rounds(&all, 1, 0, count);
        } else if (sscanf(line, "unconnected %ld", &count) == 1) {
            rounds(&all, 0, 0, count);
        } else {
            fprintf(stderr, "no such command: %s", line);
            return 2;
        }
        fflush(stdout);
    }
    return 0;
}
