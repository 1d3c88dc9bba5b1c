/* What keeps the switch's descriptors open when it is killed: a process that shares its table (clone(2), CLONE_FILES),
 * and does nothing but wait for the switch's end, and then a little for a successor, who takes what it needs from here
 * (switch/estate.py) and ends this. The reasons are in docs/design/keeper.md.
 *
 * It cannot be a program of its own, since execve(2) gives a process its own table. So it is a copy of the switch,
 * which gives back all memory but a page of code, which is the file's, and what is left of the stack. Where the kernel
 * writes for a thread (rseq(2)) has to stay as well.
 */
#include "kernel.h"
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif
#ifndef PR_SET_PTRACER
#define PR_SET_PTRACER 0x59616d61
#endif

#if defined(__x86_64__)
enum { PAGE = 4096 };
#else
enum { PAGE = 65536 }; /* the largest there is */
#endif
enum { GRACE = 3 }; /* seconds */
enum { RANGES = 1024, STACK = 4 * PAGE, THREAD_BEFORE = PAGE, THREAD_BEHIND = 2 * PAGE };
static const char title[] = "ax-hold";

/* In a section, so in pages, of its own; where it runs there is nothing else: no library, no data, no checks. */
#define ALONE __attribute__((section("alone"), noinline, used, no_stack_protector, no_sanitize("address", "undefined")))
extern const char __start_alone[], __stop_alone[];

static inline __attribute__((always_inline)) long call5(long number, long a, long b, long c, long d, long e) {
    long result;
#if defined(__x86_64__)
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    result = x0;
#else
#error "say how a system call is made"
#endif
    return result;
}

struct range {
    uintptr_t start, end;
};

/* On the stack, which stays: even a constant in the code might lie where there is nothing any more. */
struct plan {
    struct range all[RANGES], kept[3]; /* of memory; what is kept lies in ascending order */
    long count;
    struct pollfd owner, keeper;
    struct timespec patience, grace;
};

/* Give memory back, wait for the end of the owner, then for that of the keeper or for a time, and end; after the
 * keeper's not at once, for it may have started a successor just before. One range after the other, for some may not be
 * given back: mseal(2). */
ALONE __attribute__((noreturn)) static void hold_on(struct plan *plan) {
    for (long i = 0; i < plan->count; i++) {
        uintptr_t start = plan->all[i].start, end = plan->all[i].end;
        for (const struct range *kept = plan->kept; kept < plan->kept + 3; kept++) {
            if (kept->start < end && kept->end > start) {
                if (kept->start > start) {
                    call5(SYS_munmap, (long)start, (long)(kept->start - start), 0, 0, 0);
                }
                start = kept->end;
            }
        }
        if (start < end) {
            call5(SYS_munmap, (long)start, (long)(end - start), 0, 0, 0);
        }
    }
    while (call5(SYS_ppoll, (long)&plan->owner, 1, 0, 0, 0) == -EINTR) {
    }
    long ended;
    while ((ended = call5(SYS_ppoll, (long)&plan->keeper, 1, (long)&plan->patience, 0, 0)) == -EINTR) {
    }
    while (ended > 0 && call5(SYS_ppoll, 0, 0, (long)&plan->grace, 0, 0) == -EINTR) {
    }
    for (;;) {
        call5(SYS_exit_group, 0, 0, 0, 0, 0);
    }
}

static uintptr_t page_of(const void *address) { return (uintptr_t)address & ~(uintptr_t)(PAGE - 1); }

/* What is shown of it: proc_pid_cmdline(5). Its environment stays as it is. */
static void rename_to_title(uintptr_t start, uintptr_t end) {
    char *words = (char *)start;
    size_t room = end - start;
    if (room > sizeof title) {
        memset(words, 0, room);
        memcpy(words, title, sizeof title);
    }
    prctl(PR_SET_NAME, title);
}

/* hold(ranges, arguments, stack, owner, keeper, seconds): start it. `ranges`: of our memory, as pairs of uint64_t, the
 * lowest first. `arguments`: where our command line is, as such a pair; `stack`: where the stack ends. `owner`: a pidfd
 * of ours; `keeper`: a descriptor that is readable when nobody will start a successor any more. A pidfd of it. */
PyObject *k_hold(ARGS) {
    char *ranges, *arguments;
    Py_ssize_t size, arguments_size;
    uint64_t stack_end;
    int seconds, pidfd = -1;
    if (arity("hold", nargs, 6) < 0 || as_bytes(args[0], &ranges, &size) < 0 ||
        as_bytes(args[1], &arguments, &arguments_size) < 0 || as_u64(args[2], &stack_end) < 0 ||
        as_int(args[5], &seconds) < 0) {
        return NULL;
    }
    struct range words;
    struct plan plan = {.patience = {.tv_sec = seconds}, .grace = {.tv_sec = GRACE}};
    if (size % (Py_ssize_t)sizeof words || size > (Py_ssize_t)sizeof plan.all ||
        arguments_size != (Py_ssize_t)sizeof words) {
        PyErr_SetString(PyExc_ValueError, "these are no ranges, or too many");
        return NULL;
    }
    memcpy(plan.all, ranges, (size_t)size);
    plan.count = size / (Py_ssize_t)sizeof words;
    memcpy(&words, arguments, sizeof words);
    plan.owner.fd = as_fd(module, args[3]);
    plan.keeper.fd = plan.owner.fd < 0 ? -1 : as_fd(module, args[4]);
    if (plan.keeper.fd < 0) {
        return NULL;
    }
    plan.owner.events = plan.keeper.events = POLLIN;
    uintptr_t thread = page_of(__builtin_thread_pointer());
    struct range code = {page_of(__start_alone), page_of(__stop_alone + PAGE - 1)};
    struct range own = {thread - THREAD_BEFORE, thread + THREAD_BEHIND};
    int code_first = code.start < own.start;
    plan.kept[0] = code_first ? code : own;
    plan.kept[1] = code_first ? own : code;
    plan.kept[2] = (struct range){page_of(__builtin_frame_address(0)) - sizeof plan - STACK, (uintptr_t)stack_end};
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_FILES | CLONE_PIDFD | SIGCHLD, NULL, &pidfd, NULL, NULL);
    if (pid == 0) {
        sigset_t every;
        sigfillset(&every);
        sigprocmask(SIG_BLOCK, &every, NULL);
        setsid();
        prctl(PR_SET_PTRACER, -1UL); /* where only parents may look otherwise: pidfd_getfd(2) by a successor */
        if (chdir("/") == 0) {
            rename_to_title(words.start, words.end);
        }
        hold_on(&plan);
    }
    return fd_result(module, pid < 0 ? -1 : pidfd);
}

/* A list of bytes as an array that ends with NULL. */
static char **words_of(PyObject *list) {
    Py_ssize_t count = PyList_Check(list) ? PyList_Size(list) : -1;
    char **words = count < 0 ? NULL : calloc((size_t)count + 1, sizeof *words);
    for (Py_ssize_t i = 0; words != NULL && i < count; i++) {
        words[i] = PyBytes_AsString(PyList_GetItem(list, i));
        if (words[i] == NULL) {
            free(words);
            return NULL;
        }
    }
    if (words == NULL && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_TypeError, "a list of bytes");
    }
    return words;
}

/* spawn(words, environment, control): start a program, in a session of its own and with no signal blocked, that has
 * nothing of ours but the standard descriptors; with a `control` that is not -1 that as number 3, and /dev/null as the
 * others. Descriptors that close on execve(2) would do so by themselves; the others here are connections that were
 * accepted (accept_now). Its pid. */
PyObject *k_spawn(ARGS) {
    int control;
    (void)module;
    if (arity("spawn", nargs, 3) < 0 || as_int(args[2], &control) < 0) {
        return NULL;
    }
    char **words = words_of(args[0]);
    char **environment = words == NULL ? NULL : words_of(args[1]);
    if (environment == NULL || words[0] == NULL) {
        free(words);
        free(environment);
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "no program");
    }
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    pid_t pid = 0;
    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    if (control >= 0) {
        posix_spawn_file_actions_adddup2(&actions, control, STDERR_FILENO + 1);
        for (int i = STDIN_FILENO; i <= STDERR_FILENO; i++) {
            posix_spawn_file_actions_addopen(&actions, i, "/dev/null", O_RDWR, 0);
        }
    }
    posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1 + (control >= 0));
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);
    errno = posix_spawn(&pid, words[0], &actions, &attributes, words, environment);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    free(words);
    free(environment);
    return errno ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(pid);
}

/* set_ours(fd, ours): whether a successor is to take it for a connection of ours, F_SETFD of fcntl(2): see accept_now.
 */
PyObject *k_set_ours(ARGS) {
    int ours;
    if (arity("set_ours", nargs, 2) < 0 || as_int(args[1], &ours) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    return fd < 0 ? NULL : errno_result(fcntl(fd, F_SETFD, ours ? 0 : FD_CLOEXEC));
}

/* give(listener, id, fd, cloexec): put a connection into the caller and make its number the reply. The number, or a
 * negative errno. We may be killed here, and sleep here until the caller runs: while there are two descriptors of it a
 * successor asks whether the call was answered, and then it is not ours any more (switch/estate.py). */
PyObject *k_give(ARGS) {
    uint64_t id;
    int cloexec;
    if (arity("give", nargs, 4) < 0 || as_u64(args[1], &id) < 0 || as_int(args[3], &cloexec) < 0) {
        return NULL;
    }
    int listener = as_fd(module, args[0]);
    int fd = listener < 0 ? -1 : as_fd(module, args[2]);
    if (fd < 0) {
        return NULL;
    }
    struct seccomp_notif_addfd add = {
        .id = id, .srcfd = (uint32_t)fd, .newfd_flags = cloexec ? O_CLOEXEC : 0, .flags = SECCOMP_ADDFD_FLAG_SEND};
    int twin = fcntl(fd, F_DUPFD, 0); /* none where descriptors are short */
    int number = ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
    int error = errno;
    if (number >= 0) {
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
    if (twin >= 0) {
        close(twin); /* not the last one */
    }
    return PyLong_FromLong(number < 0 ? -error : number);
}
