/* ax-splice: carries bytes between pairs of connected stream sockets, for the switch.
 *
 * The one place where data passes through a process of ours: connections whose first bytes decide where they go, to a
 * destination that is not on this host. One end is an AF_UNIX socket, whose other end is the app, the other a TCP one;
 * nothing below cares which is which but for what only TCP has. docs/design/splicer.md tells why it is a process.
 *
 * Descriptor 3 is a SOCK_SEQPACKET Unix socket, whose other end is the switch. It says `struct request`: PAIR with the
 * two descriptors (SCM_RIGHTS), QUERY. It is told `struct record`s, 1 to 128 in a packet: HELLO first; REFUSED and
 * CLOSED, once for each PAIR; ROWs and an END for a QUERY (one that comes before the END of another takes its place).
 * When the switch has gone this process goes on without it, and ends with its last pair.
 *
 * Two rules. Nothing waits: sockets, pipes and control are non-blocking, whoever is slow is waited for in one
 * edge-triggered epoll, and what a socket cannot take stays in the one that it comes from (and a pipe). And nothing is
 * lost: the end of a stream is passed on (shutdown(2), or a reset) only after all that came before it.
 *
 * Sources: splice(2), epoll(7), pipe(7), unix(7), tcp(7), socket(7); RFC 6093 for urgent data, which goes in line.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

enum {
    CONTROL = 3,
    EXIT_OURS = 125,
    PIPE_BYTES = 256 << 10,   /* wished for; an unprivileged user with many pipes gets less: pipe(7) */
    SCRATCH_BYTES = 64 << 10, /* what is copied at a time */
    MANY = 16 << 10,          /* bytes at a time from which on a pipe is worth its system calls */
    STEPS = 8,                /* a turn: PIPE_BYTES each at most */
    UNWANTED = 64,            /* reads of SCRATCH_BYTES each, of what nobody is there to get */
    STALLED_MS = 120 * 1000,  /* that the last bytes of an app that has closed wait for a server that does not read */
    SPARE_PIPES = 32,
    EVENTS = 128,
    TICK_US = 20000, /* that anything may wait */
    IDLE_TICKS = 2,
    PACKETS = 64,   /* of the switch, a round */
    BATCH = 128,    /* records in a packet */
    UNREAD = 16384, /* records that the switch has not read: from here on it is not heard either */
};

/* ------------------------------------------------------------------ what goes over control, native endian */

enum { HELLO = 1, PAIR, QUERY, CLOSED, REFUSED, ROW, END };
enum { PROTOCOL_VERSION = 1 };

struct request {
    uint32_t kind;  /* PAIR, QUERY */
    uint32_t value; /* QUERY: repeated in its ROWs and its END */
    uint64_t id;    /* PAIR: the switch's name for it */
};
_Static_assert(sizeof(struct request) == 16, "packed by its layout");

struct record {
    uint32_t kind;
    uint32_t value; /* HELLO: version; CLOSED: errno or 0; REFUSED: errno; ROW, END: the query's */
    uint64_t id;
    uint64_t bytes[2]; /* from the first descriptor to the second, and back */
};
_Static_assert(sizeof(struct record) == 32, "packed by its layout");

/* ------------------------------------------------------------------ pairs */

struct end {
    int fd;
    int error; /* what it failed with: ECONNRESET */
    bool tcp;
    bool readable, writable; /* until a call says EAGAIN; an edge sets them again */
    bool hung_up;            /* in both directions */
    bool ending;             /* a short read does not mean that nothing more is there */
    bool urgent;             /* splice(2) does not get past urgent data, recv(2) does */
};

/* From one end to the other. What has been taken and not yet given is in a pipe, or in `rest` where it was copied. */
struct flow {
    struct end *from, *to;
    uint64_t given; /* bytes */
    size_t held;    /* bytes */
    char *rest;
    size_t rest_at;
    int pipe[2];  /* -1: none */
    size_t burst; /* bytes since nothing was there */
    bool bulk;    /* splice, do not copy */
    bool refused; /* splice(2) does not work here */
    bool sink;    /* the other end takes no more: what comes is thrown away */
    bool hole;    /* something is lost, for want of memory: nobody may take what follows for the whole */
    bool eof;     /* everything has been taken */
    bool done;    /* and given, and the end with it */
};

struct pair {
    struct pair *next, *previous; /* of all; or (next) of those that leave */
    struct pair *next_ready;
    bool is_ready;
    struct end end[2];
    struct flow flow[2]; /* flow[i] comes from end[i] */
    struct record record;
};

static int epoll = -1;
static struct pair *all, *spare; /* `spare`: where the next request goes, so that there is a place to refuse it from */
static struct pair *first_ready, *last_ready;
static struct pair *first_leaving, *last_leaving; /* of each the record is yet to be told */
static size_t leaving;
static bool greeted;
static char scratch[SCRATCH_BYTES];

static struct {
    bool open, blocked;
    uint32_t events; /* waited for */
} control = {.open = true, .events = EPOLLIN};

static struct {
    bool asked;
    uint32_t value;
    struct pair *next;
} query;

static void make_ready(struct pair *p) {
    if (p->is_ready)
        return;
    p->is_ready = true;
    p->next_ready = NULL;
    if (first_ready)
        last_ready->next_ready = p;
    else
        first_ready = p;
    last_ready = p;
}

static struct pair *next_ready(void) {
    struct pair *p = first_ready;
    first_ready = p->next_ready;
    p->is_ready = false;
    return p;
}

static void leave(struct pair *p) {
    p->next = NULL;
    if (first_leaving)
        last_leaving->next = p;
    else
        first_leaving = p;
    last_leaving = p;
    leaving++;
}

static void forget_first_leaving(void) {
    struct pair *p = first_leaving;
    first_leaving = p->next;
    leaving--;
    if (spare)
        free(p);
    else
        spare = p;
}

/* ------------------------------------------------------------------ pipes */

static int pool[SPARE_PIPES][2];
static size_t pooled;

static bool take_pipe(struct flow *f) {
    if (f->pipe[0] >= 0)
        return true;
    if (pooled) {
        memcpy(f->pipe, pool[--pooled], sizeof f->pipe);
        return true;
    }
    if (pipe2(f->pipe, O_NONBLOCK | O_CLOEXEC) < 0) {
        f->pipe[0] = f->pipe[1] = -1;
        return false;
    }
    fcntl(f->pipe[1], F_SETPIPE_SZ, PIPE_BYTES);
    return true;
}

static void give_pipe_back(struct flow *f) {
    if (f->pipe[0] < 0)
        return;
    if (f->held == 0 && pooled < SPARE_PIPES) {
        memcpy(pool[pooled++], f->pipe, sizeof f->pipe);
    } else {
        close(f->pipe[0]);
        close(f->pipe[1]);
    }
    f->pipe[0] = f->pipe[1] = -1;
}

static void drop_held(struct flow *f) {
    give_pipe_back(f);
    free(f->rest);
    f->rest = NULL;
    f->held = 0;
}

/* ------------------------------------------------------------------ moving bytes
 * Functions that return bool say whether anything moved: if so, it is worth to try again. */

static bool is_refusal(int error) { return error == EINVAL || error == ENOSYS || error == EPERM; }

/* Reading gave no bytes. */
static bool nothing_taken(struct flow *f, ssize_t got) {
    if (got < 0 && errno == EINTR)
        return true;
    if (got < 0 && errno == EAGAIN) {
        if (f->held == 0) { /* else it may also mean that the pipe is full, in slots if not in bytes */
            f->from->readable = false;
            f->bulk = f->burst >= MANY;
            f->burst = 0;
        }
        return false;
    }
    if (got < 0 && !f->from->error)
        f->from->error = errno;
    f->eof = true;
    return true;
}

/* The other end takes no more. TCP says so by a reset; a Unix socket when the app has closed it, or its half of it. */
static bool broken(struct flow *f) {
    if (!f->to->error && (f->to->tcp || errno != EPIPE))
        f->to->error = errno;
    drop_held(f);
    f->sink = true;
    if (!f->from->tcp) { /* the app's next write fails, as it would on a TCP socket of its own */
        shutdown(f->from->fd, SHUT_RD);
        f->from->readable = true;
    }
    return true;
}

static bool lost(struct flow *f) {
    drop_held(f);
    f->hole = f->eof = true;
    return true;
}

/* Gives `size` bytes of scratch, as far as the other end takes them; the rest is held. */
static bool give_copy(struct flow *f, size_t size) {
    ssize_t sent = send(f->to->fd, scratch, size, MSG_NOSIGNAL);
    if (sent < 0 && errno == EAGAIN) {
        f->to->writable = false;
        sent = 0;
    }
    if (sent < 0)
        return broken(f);
    f->given += (uint64_t)sent;
    if ((size_t)sent == size)
        return true;
    f->rest = malloc(size - (size_t)sent);
    if (!f->rest)
        return lost(f);
    f->rest_at = 0;
    f->held = size - (size_t)sent;
    memcpy(f->rest, scratch + sent, f->held);
    return true;
}

/* A little goes faster without a pipe. */
static bool copy(struct flow *f) {
    ssize_t got = recv(f->from->fd, scratch, sizeof scratch, 0);
    if (got <= 0)
        return nothing_taken(f, got);
    f->burst += (size_t)got;
    f->bulk = got >= MANY;
    /* epoll(7): of a stream, that was all; not of a Unix one, where a read ends at each message with descriptors. */
    if (got < (ssize_t)sizeof scratch && f->from->tcp && !f->from->ending) {
        f->from->readable = false;
        f->burst = 0;
    }
    return f->sink || give_copy(f, (size_t)got);
}

static bool fill(struct flow *f) {
    if (f->eof || !f->from->readable || f->rest)
        return false;
    if (!f->bulk || f->sink || f->refused || f->from->urgent || !take_pipe(f))
        return f->held == 0 && copy(f);
    ssize_t got = splice(f->from->fd, NULL, f->pipe[1], NULL, PIPE_BYTES, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (got < 0 && is_refusal(errno)) {
        f->refused = true;
        return true;
    }
    if (got <= 0)
        return nothing_taken(f, got);
    f->held += (size_t)got;
    f->burst += (size_t)got;
    return true;
}

/* splice(2) does not work there: what is in the pipe is copied, like everything after it. */
static bool empty_pipe(struct flow *f) {
    size_t have = 0;
    f->refused = true;
    f->rest = malloc(f->held);
    f->rest_at = 0;
    while (f->rest && have < f->held) {
        ssize_t got = read(f->pipe[0], f->rest + have, f->held - have);
        if (got <= 0)
            break;
        have += (size_t)got;
    }
    if (have < f->held)
        return lost(f);
    f->held = 0;
    give_pipe_back(f);
    f->held = have;
    return true;
}

static bool drain(struct flow *f) {
    ssize_t given;
    if (f->held == 0 || !f->to->writable)
        return false;
    if (f->rest)
        given = send(f->to->fd, f->rest + f->rest_at, f->held, MSG_NOSIGNAL);
    else
        given = splice(f->pipe[0], NULL, f->to->fd, NULL, f->held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (given < 0 && errno == EAGAIN) {
        f->to->writable = false;
        return false;
    }
    if (given < 0 && !f->rest && is_refusal(errno))
        return empty_pipe(f);
    if (given < 0)
        return errno == EINTR || broken(f);
    f->given += (uint64_t)given;
    f->held -= (size_t)given;
    f->rest_at += (size_t)given;
    if (f->held == 0) {
        free(f->rest);
        f->rest = NULL;
    }
    return given > 0;
}

/* One turn; whether it had its share and there may be more. */
static bool pump(struct flow *f) {
    bool moved = true;
    for (int step = 0; moved && step < STEPS; step++) {
        moved = fill(f);
        moved |= drain(f);
    }
    if (f->held == 0)
        give_pipe_back(f); /* who waits has no pipe */
    return moved;
}

/* ------------------------------------------------------------------ ending */

static void release(struct end *e, int error) {
    struct linger linger = {.l_onoff = error != 0}; /* on: a reset. Off also undoes what would make close(2) wait */
    epoll_ctl(epoll, EPOLL_CTL_DEL, e->fd, NULL);   /* not left to close(2): others may still hold the file */
    if (e->tcp) {
        /* Unread data would make a reset of it, and what we have sent may still be on its way. */
        for (int i = 0; !error && i < UNWANTED && recv(e->fd, scratch, sizeof scratch, 0) > 0; i++)
            ;
        setsockopt(e->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    }
    close(e->fd);
}

static struct record record_of(const struct pair *p, uint32_t kind, uint32_t value) {
    return (struct record){
        .kind = kind, .value = value, .id = p->record.id, .bytes = {p->flow[0].given, p->flow[1].given}};
}

static void finish(struct pair *p, int error) {
    for (int i = 0; i < 2; i++) {
        drop_held(&p->flow[i]);
        release(&p->end[i], error);
    }
    if (p->next)
        p->next->previous = p->previous;
    if (p->previous)
        p->previous->next = p->next;
    else
        all = p->next;
    if (query.next == p)
        query.next = p->next;
    p->record = record_of(p, CLOSED, (uint32_t)error);
    leave(p);
}

/* Passes on what has ended in one way. 0, or the errno that the pair ends with. */
static int settle_flow(struct flow *f) {
    bool given = f->eof && f->held == 0;
    if (f->hole)
        return ENOMEM;
    /* A reset overtakes what the other side does not take, as TCP's own; but an app may read what came before. */
    if (f->from->error && (given || (f->to->tcp && !f->to->writable)))
        return f->from->error;
    if (given && !f->done) {
        f->done = true;
        shutdown(f->to->fd, SHUT_WR);
    }
    return 0;
}

/* Whether nothing more can be given to where it comes from: that end has closed, or has got everything. If more comes
 * for one that has closed, the kernel answers it with a reset once we have closed, too. */
static bool is_over(const struct flow *f, const struct flow *back) {
    return f->done && (back->done || f->from->hung_up);
}

/* Whether the pair has ended. */
static bool settle(struct pair *p) {
    struct flow *there = &p->flow[0], *back = &p->flow[1];
    int error = settle_flow(there);
    if (!error)
        error = settle_flow(back);
    if (!error && !is_over(there, back) && !is_over(back, there))
        return false;
    finish(p, error);
    return true;
}

static void take_turn(struct pair *p) {
    bool more = pump(&p->flow[0]);
    more |= pump(&p->flow[1]);
    if (!settle(p) && more)
        make_ready(p);
}

/* ------------------------------------------------------------------ events of sockets */

/* epoll's data is the pair's address; its lowest bit says which end. */
static void on_event(uint64_t data, uint32_t events) {
    struct pair *p = (struct pair *)(uintptr_t)(data & ~UINT64_C(1));
    struct end *e = &p->end[data & 1];
    int error = 0;
    socklen_t size = sizeof error;
    if (events & EPOLLERR && getsockopt(e->fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && !e->error)
        e->error = error;
    e->readable |= (events & (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    e->writable |= (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0;
    e->hung_up |= (events & EPOLLHUP) != 0;
    e->urgent |= (events & EPOLLPRI) != 0;
    e->ending |= (events & (EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    if (e->hung_up && !e->tcp) { /* the kernel gives up on a socket that nobody holds after a while: so do we */
        int patience = STALLED_MS;
        setsockopt(p->end[!(data & 1)].fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience, sizeof patience);
    }
    make_ready(p);
}

/* ------------------------------------------------------------------ hearing the switch */

/* 0 or an errno. */
static int prepare(struct end *e) {
    int kind = 0, on = 1;
    socklen_t size = sizeof kind;
    if (getsockopt(e->fd, SOL_SOCKET, SO_TYPE, &kind, &size) < 0)
        return errno;
    if (kind != SOCK_STREAM)
        return ESOCKTNOSUPPORT;
    if (fcntl(e->fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
        return errno;
    e->tcp = setsockopt(e->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0;
    setsockopt(e->fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on); /* where there is such a thing */
    e->readable = e->writable = true;
    return 0;
}

static int watch(struct pair *p, int which) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLET,
                                .data.u64 = (uint64_t)(uintptr_t)p | (uint64_t)which};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, p->end[which].fd, &event) < 0 ? errno : 0;
}

static int start(struct pair *p, int fds[2]) {
    int error = 0;
    memset(p, 0, sizeof *p);
    for (int i = 0; i < 2 && !error; i++) {
        p->end[i].fd = fds[i];
        p->flow[i] = (struct flow){.from = &p->end[i], .to = &p->end[!i], .pipe = {-1, -1}};
        error = prepare(&p->end[i]);
    }
    if (!error)
        error = watch(p, 0);
    if (!error && (error = watch(p, 1)))
        epoll_ctl(epoll, EPOLL_CTL_DEL, fds[0], NULL);
    return error;
}

static void add(struct pair *p) {
    p->next = all;
    if (all)
        all->previous = p;
    all = p;
    make_ready(p);
}

static size_t descriptors(struct msghdr *message, int fds[2]) {
    struct cmsghdr *c = CMSG_FIRSTHDR(message);
    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
        return 0;
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(fds, CMSG_DATA(c), count * sizeof(int));
    return count;
}

/* A request whose descriptors we own. 0, or the errno that it is refused with: what they were for does not happen. */
static int obey(const struct request *request, int fds[2], size_t count, int flags) {
    if (flags & MSG_CTRUNC && count < 2)
        return EMFILE; /* there was no room for them in our table */
    if (flags & (MSG_CTRUNC | MSG_TRUNC) || (request->kind == PAIR ? count != 2 : request->kind != QUERY || count))
        return EPROTO;
    if (request->kind == QUERY) {
        query.asked = true;
        query.value = request->value;
        query.next = all;
        return 0;
    }
    struct pair *p = spare;
    spare = malloc(sizeof *spare);
    int error = spare ? start(p, fds) : ENOMEM;
    if (error) {
        free(spare);
        spare = p;
        return error;
    }
    p->record.id = request->id;
    add(p);
    return 0;
}

static void refuse(uint64_t id, int error, int fds[2], size_t count) {
    for (size_t i = 0; i < count; i++)
        close(fds[i]);
    struct pair *p = spare;
    spare = malloc(sizeof *spare);
    p->record = (struct record){.kind = REFUSED, .value = (uint32_t)error, .id = id};
    leave(p);
}

static void lose_control(void) {
    control.open = false;
    query.asked = false;
    while (first_leaving)
        forget_first_leaving();
    close(CONTROL);
}

/* One packet; whether there may be another. */
static bool hear(bool hung_up) {
    struct request request = {0};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(2 * sizeof(int))];
    } ancillary;
    struct iovec iov = {.iov_base = &request, .iov_len = sizeof request};
    struct msghdr message = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &ancillary, .msg_controllen = sizeof ancillary};
    int fds[2];
    ssize_t got = recvmsg(CONTROL, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0 && errno == ECONNRESET) /* it did not read everything, but what it said before is there */
        return true;
    if (got < 0)
        return errno == EINTR;
    if (got == 0 && hung_up) {
        lose_control();
        return false;
    }
    size_t count = descriptors(&message, fds);
    int error = obey(&request, fds, count, message.msg_flags | (got < (ssize_t)sizeof request ? MSG_TRUNC : 0));
    if (error)
        refuse(request.id, error, fds, count);
    return true;
}

static void listen_to_switch(bool hung_up) {
    if (hung_up) /* nobody is there to be told anything: make room */
        while (first_leaving)
            forget_first_leaving();
    for (int i = 0; i < PACKETS && control.open && spare && (hung_up || leaving < UNREAD); i++)
        if (!hear(hung_up))
            return;
}

/* ------------------------------------------------------------------ telling the switch */

/* The next packet. What it is made of is left as it is, until it has been sent. */
static size_t gather(struct record *packet, struct pair **next_row) {
    size_t count = 0;
    if (!greeted)
        packet[count++] = (struct record){.kind = HELLO, .value = PROTOCOL_VERSION};
    for (struct pair *p = first_leaving; p && count < BATCH; p = p->next)
        packet[count++] = p->record;
    if (!query.asked)
        return count;
    for (; *next_row && count < BATCH; *next_row = (*next_row)->next)
        packet[count++] = record_of(*next_row, ROW, query.value);
    if (count < BATCH)
        packet[count++] = (struct record){.kind = END, .value = query.value};
    return count;
}

static void tell_switch(void) {
    struct record packet[BATCH];
    while (control.open && !control.blocked && (!greeted || first_leaving || query.asked)) {
        struct pair *next_row = query.next;
        size_t count = gather(packet, &next_row);
        if (send(CONTROL, packet, count * sizeof *packet, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
            control.blocked = true; /* or gone, which its EPOLLHUP will tell */
            return;
        }
        greeted = true;
        query.next = next_row;
        for (size_t i = 0; i < count; i++)
            if (packet[i].kind == CLOSED || packet[i].kind == REFUSED)
                forget_first_leaving();
            else if (packet[i].kind == END)
                query.asked = false;
    }
}

/* Wait for what can be done something about. */
static void watch_control(void) {
    uint32_t events = (spare && leaving < UNREAD ? EPOLLIN : 0U) | (control.blocked ? EPOLLOUT : 0U);
    struct epoll_event event = {.events = events, .data.ptr = NULL};
    if (!control.open || events == control.events)
        return;
    control.events = events;
    epoll_ctl(epoll, EPOLL_CTL_MOD, CONTROL, &event);
}

/* ------------------------------------------------------------------ the process */

__attribute__((noreturn)) static void die(const char *why) {
    dprintf(STDERR_FILENO, "ax-splice: %s\n", why);
    exit(EXIT_OURS);
}

static void on_tick(int number) { (void)number; }

static void set_up(void) {
    int kind = 0;
    socklen_t size = sizeof kind;
    struct rlimit limit;
    sigset_t none;
    const struct sigaction tick = {.sa_handler = on_tick}; /* without SA_RESTART */
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (getsockopt(CONTROL, SOL_SOCKET, SO_TYPE, &kind, &size) < 0 || kind != SOCK_SEQPACKET)
        die("it is started by the switch");
    sigaction(SIGALRM, &tick, NULL);
    signal(SIGPIPE, SIG_IGN); /* splice(2) has no MSG_NOSIGNAL */
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    syscall(SYS_close_range, CONTROL + 1, UINT_MAX, 0);
    if (chdir("/") < 0) /* pin nobody's directory */
        die(strerror(errno));
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, CONTROL, &event) < 0)
        die(strerror(errno));
    spare = malloc(sizeof *spare);
    if (!spare)
        die(strerror(ENOMEM));
}

/* A descriptor that an app sends along with its bytes goes no further, and may be the last of a socket that lingers:
 * the kernel would wait for its data to be sent (socket(7), SO_LINGER), and everybody else with it. A signal ends that,
 * and comes as long as there is something to do. */
static void wait_for_nobody(int count) {
    static bool ticking;
    static int idle;
    idle = count < 0 ? idle + 1 : 0;
    if (ticking == (idle < IDLE_TICKS))
        return;
    ticking = !ticking;
    const struct timeval tick = {.tv_usec = ticking ? TICK_US : 0};
    const struct itimerval often = {tick, tick};
    setitimer(ITIMER_REAL, &often, NULL);
}

/* Takes what has happened; data of no pair is control's. Pairs end later, so that each event still finds its own. */
static void take_events(void) {
    struct epoll_event events[EVENTS];
    uint32_t of_control = 0;
    int count = epoll_wait(epoll, events, EVENTS, first_ready ? 0 : -1);
    wait_for_nobody(count);
    for (int i = 0; i < count; i++)
        if (events[i].data.ptr)
            on_event(events[i].data.u64, events[i].events);
        else
            of_control = events[i].events;
    if (of_control & EPOLLOUT)
        control.blocked = false;
    if (of_control & (EPOLLIN | EPOLLHUP))
        listen_to_switch(of_control & EPOLLHUP);
}

static void take_turns(void) {
    struct pair *last = last_ready;
    while (first_ready) {
        struct pair *p = next_ready();
        take_turn(p);
        if (p == last)
            break;
    }
}

int main(void) {
    set_up();
    tell_switch();
    while (control.open || all) {
        take_events();
        take_turns();
        tell_switch();
        watch_control();
    }
    return 0;
}
