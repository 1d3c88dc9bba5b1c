/* What every C probe shares.
 *
 * A probe is a program of sections. A section tries one behaviour and prints what came of it: errno names, not numbers;
 * addresses by role ("self", "loopback", "any"); no ephemeral port. Run bare and under `ax` it must print the same.
 *
 *     probe ADDRESS [ADDRESS4]          runs every section, each in a process of its own
 *     probe -s SECTION ADDRESS …        runs one, in this process (for strace and gdb)
 */
#ifndef PROBE_H
#define PROBE_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECTION_SECONDS 10
#define TIMEOUTS_ALLOWED 3

typedef struct {
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_storage ss;
        char raw[sizeof(struct sockaddr_storage)];
    };
    socklen_t len;
} addr_t;

static int family;        /* of ADDRESS */
static addr_t self_addr;  /* ADDRESS, port 0 */
static addr_t self4_addr; /* ADDRESS4, port 0; when family is AF_INET the same as self_addr */
static const char *arguments[3];

struct section {
    const char *name;
    void (*run)(void);
};
static struct section sections[256];
static int section_count;

#define PROBE(title)                                                                                                   \
    static void probe_##title(void);                                                                                   \
    __attribute__((constructor)) static void add_##title(void)                                                         \
    {                                                                                                                  \
        sections[section_count++] = (struct section){#title, probe_##title};                                           \
    }                                                                                                                  \
    static void probe_##title(void)

/* ---- saying ---------------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 1, 2), unused)) static void say(const char *format, ...)
{
    char line[4096];
    va_list list;
    int saved = errno;
    va_start(list, format);
    int n = vsnprintf(line, sizeof line - 1, format, list);
    va_end(list);
    line[n++] = '\n';
    if (write(1, line, n) != n)
        _exit(99);
    errno = saved;
}

__attribute__((unused)) static const char *name_of_errno(int number)
{
    static __thread char buffer[4][32];
    static __thread int turn;
    const char *name = number ? strerrorname_np(number) : "0";
    char *slot = buffer[turn++ & 3];
    snprintf(slot, 32, "%s", name ? name : "unknown");
    return slot;
}

/* "label: 3" or "label: ECONNREFUSED". */
__attribute__((unused)) static long said(const char *label, long result)
{
    if (result < 0)
        say("%s: %s", label, name_of_errno(errno));
    else
        say("%s: %ld", label, result);
    return result;
}
/* The same for a descriptor, whose number is not told: "label: ok". */
__attribute__((unused)) static int said_fd(const char *label, int result)
{
    if (result < 0)
        say("%s: %s", label, name_of_errno(errno));
    else
        say("%s: ok", label);
    return result;
}
#define TRY(expression) said(#expression, (expression))
#define TRYFD(expression) said_fd(#expression, (expression))
#define AS(label, expression) said(label, (expression))
#define ASFD(label, expression) said_fd(label, (expression))

__attribute__((noreturn, unused)) static void die(const char *what)
{
    say("FAILED: %s: %s", what, name_of_errno(errno));
    _exit(98);
}
/* For steps that are not what the section is about: they must work. */
#define MUST(expression)                                                                                               \
    ({                                                                                                                 \
        __typeof__(expression) must_ = (expression);                                                                   \
        if (must_ < 0)                                                                                                 \
            die(#expression);                                                                                          \
        must_;                                                                                                         \
    })

/* ---- addresses -------------------------------------------------------------------------------------------------- */

__attribute__((unused)) static addr_t parse(const char *text, int port)
{
    addr_t a;
    memset(&a, 0, sizeof a);
    if (inet_pton(AF_INET, text, &a.in.sin_addr) == 1) {
        a.in.sin_family = AF_INET;
        a.in.sin_port = htons(port);
        a.len = sizeof a.in;
    } else if (inet_pton(AF_INET6, text, &a.in6.sin6_addr) == 1) {
        a.in6.sin6_family = AF_INET6;
        a.in6.sin6_port = htons(port);
        a.len = sizeof a.in6;
    } else {
        die(text);
    }
    return a;
}

__attribute__((unused)) static addr_t with_port(addr_t a, int port)
{
    if (a.sa.sa_family == AF_INET)
        a.in.sin_port = htons(port);
    else
        a.in6.sin6_port = htons(port);
    return a;
}

__attribute__((unused)) static addr_t at(int port) { return with_port(self_addr, port); }
__attribute__((unused)) static addr_t at4(int port) { return with_port(self4_addr, port); }
__attribute__((unused)) static addr_t any(int port) { return parse(family == AF_INET ? "0.0.0.0" : "::", port); }
__attribute__((unused)) static addr_t any4(int port) { return parse("0.0.0.0", port); }
__attribute__((unused)) static addr_t loopback(int port) { return parse(family == AF_INET ? "127.0.0.1" : "::1", port); }
__attribute__((unused)) static addr_t loopback4(int port) { return parse("127.0.0.1", port); }
/* An address that no host has (documentation ranges). */
__attribute__((unused)) static addr_t nobody(int port) { return parse(family == AF_INET ? "192.0.2.1" : "2001:db8::1", port); }
__attribute__((unused)) static addr_t mapped(addr_t four)
{
    char text[64] = "::ffff:";
    inet_ntop(AF_INET, &four.in.sin_addr, text + 7, sizeof text - 7);
    return parse(text, ntohs(four.in.sin_port));
}

__attribute__((unused)) static int port_in(const addr_t *a)
{
    return ntohs(a->sa.sa_family == AF_INET ? a->in.sin_port : a->in6.sin6_port);
}

__attribute__((unused)) static bool same_ip(const addr_t *a, const addr_t *b)
{
    if (a->sa.sa_family != b->sa.sa_family)
        return false;
    if (a->sa.sa_family == AF_INET)
        return a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
    return memcmp(&a->in6.sin6_addr, &b->in6.sin6_addr, 16) == 0;
}

/* The role of an address: "self", "loopback", "any", "mapped self4" …, else its text. */
__attribute__((unused)) static const char *role(const addr_t *a)
{
    static __thread char buffers[4][80];
    static __thread int turn;
    char *text = buffers[turn++ & 3];
    addr_t known;
    if (a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr)) {
        addr_t four = parse("0.0.0.0", 0);
        memcpy(&four.in.sin_addr, a->in6.sin6_addr.s6_addr + 12, 4);
        snprintf(text, 80, "mapped %s", role(&four));
        return text;
    }
    if (a->sa.sa_family != AF_INET && a->sa.sa_family != AF_INET6) {
        snprintf(text, 80, "family %d", a->sa.sa_family);
        return text;
    }
    if (same_ip(a, &self_addr))
        return "self";
    if (same_ip(a, &self4_addr))
        return "self4";
    known = parse(a->sa.sa_family == AF_INET ? "127.0.0.1" : "::1", 0);
    if (same_ip(a, &known))
        return "loopback";
    known = parse(a->sa.sa_family == AF_INET ? "0.0.0.0" : "::", 0);
    if (same_ip(a, &known))
        return "any";
    inet_ntop(a->sa.sa_family, a->sa.sa_family == AF_INET ? (void *)&a->in.sin_addr : (void *)&a->in6.sin6_addr, text, 80);
    return text;
}

__attribute__((unused)) static addr_t sockname(int fd)
{
    addr_t a;
    memset(&a, 0, sizeof a);
    a.len = sizeof a.ss;
    if (getsockname(fd, &a.sa, &a.len) < 0)
        die("getsockname");
    return a;
}

__attribute__((unused)) static addr_t peername(int fd)
{
    addr_t a;
    memset(&a, 0, sizeof a);
    a.len = sizeof a.ss;
    if (getpeername(fd, &a.sa, &a.len) < 0)
        die("getpeername");
    return a;
}

__attribute__((unused)) static int port_of(int fd)
{
    addr_t a = sockname(fd);
    return port_in(&a);
}

/* "label: self, port set, length 16" */
__attribute__((unused)) static void say_addr(const char *label, const addr_t *a)
{
    say("%s: family %s, %s, port %s, length %d", label,
        a->sa.sa_family == AF_INET ? "INET" : a->sa.sa_family == AF_INET6 ? "INET6" : "other", role(a),
        port_in(a) ? "set" : "0", (int)a->len);
}

__attribute__((unused)) static void say_sockname(const char *label, int fd)
{
    addr_t a = {.len = sizeof a.ss};
    if (getsockname(fd, &a.sa, &a.len) < 0)
        say("%s: %s", label, name_of_errno(errno));
    else
        say_addr(label, &a);
}

__attribute__((unused)) static void say_peername(const char *label, int fd)
{
    addr_t a = {.len = sizeof a.ss};
    if (getpeername(fd, &a.sa, &a.len) < 0)
        say("%s: %s", label, name_of_errno(errno));
    else
        say_addr(label, &a);
}

/* ---- sockets ---------------------------------------------------------------------------------------------------- */

#define BIND(fd, address)                                                                                              \
    ({                                                                                                                 \
        addr_t to_ = (address);                                                                                        \
        bind((fd), &to_.sa, to_.len);                                                                                  \
    })
#define CONNECT(fd, address)                                                                                           \
    ({                                                                                                                 \
        addr_t to_ = (address);                                                                                        \
        connect((fd), &to_.sa, to_.len);                                                                               \
    })

__attribute__((unused)) static int tcp(void) { return MUST(socket(family, SOCK_STREAM, 0)); }
__attribute__((unused)) static int tcp_nonblocking(void) { return MUST(socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0)); }

__attribute__((unused)) static int set(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof value);
}

/* The value of an int option, or minus the errno. */
__attribute__((unused)) static int get(int fd, int level, int option)
{
    int value = 0;
    socklen_t length = sizeof value;
    return getsockopt(fd, level, option, &value, &length) < 0 ? -errno : value;
}

__attribute__((unused)) static int listener_at(addr_t where, int backlog)
{
    int fd = MUST(socket(where.sa.sa_family, SOCK_STREAM, 0));
    MUST(bind(fd, &where.sa, where.len));
    MUST(listen(fd, backlog));
    return fd;
}

__attribute__((unused)) static int listener(void) { return listener_at(at(0), 128); }

__attribute__((unused)) static int client_of(int listening)
{
    int fd = tcp();
    MUST(CONNECT(fd, at(port_of(listening))));
    return fd;
}

/* A listening socket whose queue is full, however long it is: one more connect waits. */
__attribute__((unused)) static int full_listener(void)
{
    int fd = MUST(socket(family, SOCK_STREAM, 0));
    MUST(BIND(fd, self_addr));
    MUST(listen(fd, 0));
    for (int i = 0; i < 1000; i++) {
        int client = tcp_nonblocking();
        struct pollfd p = {.fd = client, .events = POLLOUT};
        CONNECT(client, at(({ addr_t a = {.len = sizeof a.ss}; MUST(getsockname(fd, &a.sa, &a.len)); port_in(&a); })));
        if (poll(&p, 1, 300) == 0) {
            close(client);
            return fd;
        }
    }
    die("the queue never was full");
}

/* Accept until the connection of `client` comes. */
__attribute__((unused)) static int accept_from(int listening, int client)
{
    for (;;) {
        addr_t from = {.len = sizeof from.ss}, mine = {.len = sizeof mine.ss};
        int fd = MUST(accept(listening, &from.sa, &from.len));
        MUST(getsockname(client, &mine.sa, &mine.len));
        if (port_in(&from) == port_in(&mine))
            return fd;
        close(fd);
    }
}

/* A connection: [0] its client's end, [1] its server's end. */
__attribute__((unused)) static void connection(int ends[2])
{
    int listening = listener();
    ends[0] = client_of(listening);
    ends[1] = MUST(accept(listening, NULL, NULL));
    MUST(close(listening));
}

/* A port that was free a moment ago, and nobody else in this namespace takes ports. */
__attribute__((unused)) static int unused_port(void)
{
    int fd = tcp();
    MUST(BIND(fd, any(0)));
    int port = port_of(fd);
    close(fd);
    return port;
}

__attribute__((unused)) static void say_flags(const char *label, int fd)
{
    int fl = fcntl(fd, F_GETFL), fdfl = fcntl(fd, F_GETFD);
    say("%s: %s%s%s%s", label, (fl & O_ACCMODE) == O_RDWR ? "RDWR" : "?", fl & O_NONBLOCK ? " NONBLOCK" : "",
        fl & O_ASYNC ? " ASYNC" : "", fdfl & FD_CLOEXEC ? " CLOEXEC" : "");
}

__attribute__((unused)) static const char *events_text(unsigned events)
{
    static __thread char buffers[4][128];
    static __thread int turn;
    static const struct {
        unsigned bit;
        const char *name;
    } names[] = {{POLLIN, "IN"},   {POLLPRI, "PRI"}, {POLLOUT, "OUT"},     {POLLERR, "ERR"},
                 {POLLHUP, "HUP"}, {POLLNVAL, "NVAL"}, {POLLRDHUP, "RDHUP"}};
    char *text = buffers[turn++ & 3];
    text[0] = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (events & names[i].bit)
            strcat(strcat(text, *text ? "|" : ""), names[i].name);
    if (!*text)
        strcpy(text, "none");
    return text;
}

/* poll() one descriptor; returns the events, 0 on time-out. */
__attribute__((unused)) static unsigned poll_one(int fd, unsigned events, int milliseconds)
{
    struct pollfd p = {.fd = fd, .events = events};
    int n;
    do {
        n = poll(&p, 1, milliseconds);
    } while (n < 0 && errno == EINTR);
    return n > 0 ? (unsigned)p.revents : 0;
}
#define EVENTS(label, fd, events, ms) say("%s: %s", label, events_text(poll_one(fd, events, ms)))

/* Wait until at least one of `wanted` is there; then print all of `asked` that are. */
__attribute__((unused)) static void settle(const char *label, int fd, unsigned wanted, unsigned asked)
{
    if (!(poll_one(fd, wanted, 4000) & wanted))
        say("%s: never %s", label, events_text(wanted));
    say("%s: %s", label, events_text(poll_one(fd, asked, 0)));
}

__attribute__((unused)) static void send_all(int fd, const void *data, size_t size)
{
    const char *at_ = data;
    while (size) {
        ssize_t n = send(fd, at_, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            die("send");
        at_ += n;
        size -= n;
    }
}

__attribute__((unused)) static void recv_all(int fd, void *data, size_t size)
{
    char *at_ = data;
    while (size) {
        ssize_t n = recv(fd, at_, size, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            die(n ? "recv" : "recv: end");
        at_ += n;
        size -= n;
    }
}

/* One byte each way: the two descriptors are the ends of one connection. */
__attribute__((unused)) static void talk(const char *label, int one, int other)
{
    char a = 'a', b = 'b';
    send_all(one, &a, 1);
    send_all(other, &b, 1);
    recv_all(other, &a, 1);
    recv_all(one, &b, 1);
    say("%s: %s", label, a == 'a' && b == 'b' ? "both ways" : "mixed up");
}

/* ---- time, processes, threads ------------------------------------------------------------------------------------ */

__attribute__((unused)) static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* Wait until thread or process `tid` of process `pid` sleeps inside a system call. Under ax it waits for the switch: the
 * same to the scheduler. */
__attribute__((unused)) static void until_asleep(int pid, int tid)
{
    char path[64], line[512];
    double end = now() + 4;
    snprintf(path, sizeof path, "/proc/%d/task/%d/stat", pid, tid);
    int seen = 0;
    while (now() < end) {
        int fd = open(path, O_RDONLY);
        ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof line - 1);
        if (fd >= 0)
            close(fd);
        if (n > 0) {
            line[n] = 0;
            char *state = strrchr(line, ')');
            seen = state && state[2] == 'S' ? seen + 1 : 0;
            if (seen == 10) /* ten looks in a row, a millisecond apart: not a passing nap */
                return;
        }
        usleep(1000);
    }
    die("it never went to sleep");
}

__attribute__((unused)) static int gettid_(void) { return (int)syscall(SYS_gettid); }

/* Runs statements in a child process; returns its pid. */
#define CHILD(...)                                                                                                     \
    ({                                                                                                                 \
        pid_t child_ = MUST(fork());                                                                                   \
        if (child_ == 0) {                                                                                             \
            __VA_ARGS__;                                                                                               \
            _exit(0);                                                                                                  \
        }                                                                                                              \
        child_;                                                                                                        \
    })

__attribute__((unused)) static void join(const char *label, pid_t child)
{
    int status;
    pid_t got;
    do {
        got = waitpid(child, &status, 0);
    } while (got < 0 && errno == EINTR);
    if (got < 0)
        die("waitpid");
    if (WIFSIGNALED(status))
        say("%s: killed by SIG%s", label, sigabbrev_np(WTERMSIG(status)));
    else if (WEXITSTATUS(status) || *label)
        say("%s: exit %d", label, WEXITSTATUS(status));
}

__attribute__((unused)) static void handler_that_does_nothing(int number) { (void)number; }

__attribute__((unused)) static void on_signal(int number, int flags)
{
    struct sigaction action = {.sa_handler = handler_that_does_nothing, .sa_flags = flags};
    MUST(sigaction(number, &action, NULL));
}

__attribute__((unused)) static void alarm_in(int milliseconds, int repeat)
{
    struct itimerval timer = {.it_value = {milliseconds / 1000, milliseconds % 1000 * 1000},
                              .it_interval = {repeat / 1000, repeat % 1000 * 1000}};
    MUST(setitimer(ITIMER_REAL, &timer, NULL));
}

__attribute__((unused)) static void send_fd(int over, int fd)
{
    char byte = 'f', control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec iov = {&byte, 1};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    MUST(sendmsg(over, &message, 0));
}

__attribute__((unused)) static int receive_fd(int over)
{
    char byte, control[CMSG_SPACE(sizeof(int))];
    int fd = -1;
    struct iovec iov = {&byte, 1};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    MUST(recvmsg(over, &message, 0));
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    if (!c)
        die("no descriptor came");
    memcpy(&fd, CMSG_DATA(c), sizeof fd);
    return fd;
}

/* ---- running ------------------------------------------------------------------------------------------------------ */

#ifndef PROBE_OWN_MAIN
static int run_section(const struct section *section)
{
    sigset_t mask, old;
    siginfo_t info;
    struct timespec limit = {SECTION_SECONDS, 0};
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, &old);
    say("== %s", section->name);
    pid_t child = fork();
    if (child < 0)
        die("fork");
    if (child == 0) {
        sigprocmask(SIG_SETMASK, &old, NULL);
        setpgid(0, 0);
        section->run();
        _exit(0);
    }
    setpgid(child, child);
    int status = 0, timed_out = 0;
    while (waitpid(child, &status, WNOHANG) == 0)
        if (sigtimedwait(&mask, &info, &limit) < 0 && errno == EAGAIN) {
            timed_out = 1;
            break;
        }
    kill(-child, SIGKILL); /* the section's own children, whatever it left */
    if (timed_out) {
        waitpid(child, &status, 0);
        say("TIMEOUT");
    } else if (WIFSIGNALED(status)) {
        say("KILLED BY SIG%s", sigabbrev_np(WTERMSIG(status)));
    } else if (WEXITSTATUS(status)) {
        say("EXIT %d", WEXITSTATUS(status));
    }
    sigprocmask(SIG_SETMASK, &old, NULL);
    return timed_out;
}

int main(int argc, char **argv)
{
    const char *only = NULL;
    int first = 1, timeouts = 0;
    if (argc > 2 && strcmp(argv[1], "-s") == 0) {
        only = argv[2];
        first = 3;
    }
    if (argc <= first) {
        fprintf(stderr, "usage: %s [-s SECTION] ADDRESS [ADDRESS4]\n", argv[0]);
        return 2;
    }
    arguments[0] = argv[0];
    arguments[1] = argv[first];
    arguments[2] = argc > first + 1 ? argv[first + 1] : NULL;
    self_addr = parse(arguments[1], 0);
    family = self_addr.sa.sa_family;
    self4_addr = family == AF_INET ? self_addr : parse(arguments[2] ? arguments[2] : "127.0.0.1", 0);
    for (int i = 0; i < section_count; i++) {
        if (only) {
            if (strcmp(only, sections[i].name) == 0) {
                sections[i].run();
                return 0;
            }
            continue;
        }
        if (timeouts == TIMEOUTS_ALLOWED) {
            say("== %s\nNOT RUN: too many time-outs before", sections[i].name);
            continue;
        }
        timeouts += run_section(&sections[i]);
    }
    return only ? 2 : 0;
}
#endif
#endif
