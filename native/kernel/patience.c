/* The switch never waits: not even for calls that an app can make wait behind its back.
 *
 * connect(2) and accept(2) on an app's own file borrow O_NONBLOCK, which another thread of the app may take away
 * (fcntl(2) is not notified). close(2) of the last descriptor of a socket with SO_LINGER waits for its data to be sent
 * (socket(7)), and an app can see to it that ours is the last; it may as well lie in a queue of SCM_RIGHTS that goes
 * with the socket that is closed. There is no flag for these calls that would forbid them to wait, but a signal ends
 * each: a thread watches, and sends one to whoever has been in such a call for two ticks.
 *
 * What is known to linger, or is no socket (its file system may take its time), is closed by other threads altogether,
 * `closers`. Whatever these are held up by is theirs alone.
 *
 * Memory of an app that does not come (fuse.c) is no matter of signals: what is behind it is ended.
 *
 * No signal may come at another time, see `k_signal_fd`: `leave` returns when none is on its way any more.
 */
#include "kernel.h"
#include <pthread.h>
#include <stdatomic.h>

#define NUDGE SIGRTMAX /* unblocked in the watched threads only */

enum {
    CLOSERS = 16,
    LANES = 1 + CLOSERS, /* the loop's is the first */
    QUEUE = 1024,        /* descriptors that wait for a closer; more are closed by who has them */
    TICK = 10,           /* milliseconds */
    IDLE_TICK = 50,      /* while the loop does nothing */
    CLOSING_TICK = 2,
    STUCK = 50,          /* ticks that no closer gets on, until there is another one */
    MEMORY_LATE = 500,   /* milliseconds that one copy of memory takes, until its user's file systems are ended */
    MEMORY_LATER = 1500, /* and until everybody's are */
};
enum { OUT, IN, SIGNALLING };

/* One watched thread. */
struct lane {
    _Atomic unsigned long calls; /* of those that may wait, so far */
    _Atomic int state;
    _Atomic int signalled; /* in this call */
    pid_t tid;
};

static struct lane lanes[LANES];
static _Atomic int closers;  /* threads of them */
static _Atomic pid_t copied; /* whose memory the loop is copying; 0 */
static _Atomic int ended;    /* file systems */
static _Thread_local struct lane *mine;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t filled = PTHREAD_COND_INITIALIZER;
static int queue[QUEUE];
static unsigned first, count;

void enter(void) {
    if (mine != NULL) {
        atomic_fetch_add_explicit(&mine->calls, 1, memory_order_relaxed);
        atomic_store_explicit(&mine->state, IN, memory_order_release);
    }
}

/* Keeps errno. */
void leave(void) {
    if (mine == NULL) {
        return;
    }
    int error = errno, in = IN;
    while (!atomic_compare_exchange_strong(&mine->state, &in, OUT)) {
        in = IN; /* it is being sent right now */
        sched_yield();
    }
    if (atomic_exchange_explicit(&mine->signalled, 0, memory_order_acquire)) {
        sched_yield(); /* on the way out of any call it is delivered, if it has not been */
    }
    errno = error;
}

/* Around a copy of a thread's memory. */
void enter_memory(pid_t tid) {
    atomic_store_explicit(&copied, tid, memory_order_relaxed);
    enter();
}

void leave_memory(void) {
    leave();
    atomic_store_explicit(&copied, 0, memory_order_relaxed);
}

static void on_nudge(int number) { (void)number; }

/* Sends the signal to a thread that has been in the same call since the last tick. Whether it has. */
static int look(struct lane *lane, unsigned long *seen) {
    unsigned long calls = atomic_load(&lane->calls);
    int in = IN, waits = atomic_load(&lane->state) == IN && calls == *seen;
    *seen = calls;
    if (waits && atomic_compare_exchange_strong(&lane->state, &in, SIGNALLING)) {
        if (atomic_load(&lane->calls) == calls) {
            atomic_store(&lane->signalled, 1);
            syscall(SYS_tgkill, getpid(), lane->tid, NUDGE);
        }
        atomic_store(&lane->state, IN);
    }
    return waits;
}

static void begin(struct lane *lane) {
    sigset_t all;
    sigfillset(&all);
    sigdelset(&all, NUDGE);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    lane->tid = (pid_t)syscall(SYS_gettid);
    mine = lane;
}

static void *close_them(void *lane) {
    begin(lane);
    for (;;) {
        pthread_mutex_lock(&lock);
        while (count == 0) {
            pthread_cond_wait(&filled, &lock);
        }
        int fd = queue[first];
        first = (first + 1) % QUEUE;
        count--;
        pthread_mutex_unlock(&lock);
        enter();
        close(fd);
        leave();
    }
    return NULL;
}

static int start(void *(*run)(void *), void *argument) {
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all, before;
    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, &attributes, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return error;
}

static void add_closer(void) {
    int number = atomic_load(&closers);
    if (number < CLOSERS && start(close_them, &lanes[1 + number]) == 0) {
        atomic_store(&closers, number + 1);
    }
}

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* The loop has been in the same call since the last tick, or not. */
static void look_at_memory(int waits) {
    static long since; /* 0: it gets on */
    static int tried;
    pid_t tid = atomic_load(&copied);
    if (!waits || tid == 0) {
        since = tried = 0;
        return;
    }
    since = since ? since : now();
    long late = now() - since;
    if (late >= (tried == 0 ? MEMORY_LATE : MEMORY_LATER) && tried < 2) {
        tried++;
        atomic_fetch_add(&ended, abort_fuse(lanes[0].tid, tid, tried == 2));
    }
}

static void *watch(void *unused) {
    unsigned long seen[LANES] = {0}, before = 0;
    int stuck = 0;
    (void)unused;
    for (;;) {
        int running = atomic_load(&closers), held = 0;
        unsigned long calls = atomic_load(&lanes[0].calls);
        for (int i = 1; i <= running; i++) {
            held += atomic_load(&lanes[i].state) != OUT;
        }
        poll(NULL, 0, held ? CLOSING_TICK : calls != before ? TICK : IDLE_TICK);
        before = calls;
        look_at_memory(look(&lanes[0], &seen[0]));
        int waiting = 0;
        for (int i = 1; i <= running; i++) {
            waiting += look(&lanes[i], &seen[i]);
        }
        stuck = waiting == running ? stuck + 1 : 0;
        if (stuck >= STUCK) {
            stuck = 0;
            add_closer();
        }
    }
    return NULL;
}

/* watch_over(): from now on the calling thread, which is the loop's, waits for no app longer than two ticks. */
PyObject *k_watch_over(ARGS) {
    struct sigaction action = {.sa_handler = on_nudge}; /* without SA_RESTART: that is what it is for */
    (void)module;
    if (arity("watch_over", nargs, 0) < 0) {
        return NULL;
    }
    sigset_t nudge;
    sigemptyset(&nudge);
    sigaddset(&nudge, NUDGE);
    (void)args;
    if (sigaction(NUDGE, &action, NULL) < 0 || pthread_sigmask(SIG_UNBLOCK, &nudge, NULL) != 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    lanes[0].tid = (pid_t)syscall(SYS_gettid);
    mine = &lanes[0];
    add_closer();
    int error = start(watch, NULL);
    if (error || atomic_load(&closers) == 0) {
        errno = error ? error : EAGAIN;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

/* ended_for_us(): file systems that were ended because the loop waited for memory behind them, since it was asked last.
 */
PyObject *k_ended_for_us(ARGS) {
    (void)module;
    (void)args;
    return arity("ended_for_us", nargs, 0) < 0 ? NULL : PyLong_FromLong(atomic_exchange(&ended, 0));
}

/* Whether a closer has it now. */
static int give_away(int fd) {
    int taken = 0;
    if (mine == &lanes[0]) {
        pthread_mutex_lock(&lock);
        if (count < QUEUE) {
            queue[(first + count++) % QUEUE] = fd;
            taken = 1;
            pthread_cond_signal(&filled);
        }
        pthread_mutex_unlock(&lock);
    }
    return taken;
}

static int is_unix(int fd) {
    int domain = 0;
    socklen_t size = sizeof domain;
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX;
}

/* close(2) of a Unix socket: it does not linger itself, but what lies in its queue may. */
void close_guarded(int fd) {
    enter();
    close(fd);
    leave();
}

/* close(2), for whatever an app may have, too. `foreign`: it came from somebody else. A Unix socket never lingers. */
void close_soon(int fd, int foreign) {
    struct linger linger = {0};
    socklen_t size = sizeof linger;
    int failed = getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &size) < 0 ? errno : 0;
    if ((foreign && failed == ENOTSOCK) || (linger.l_onoff && !is_unix(fd))) {
        if (give_away(fd)) {
            return;
        }
    }
    close_guarded(fd);
}
