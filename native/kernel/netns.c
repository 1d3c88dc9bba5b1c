/* Sockets in other network namespaces. setns(2), network_namespaces(7). */
#include "kernel.h"

/* What a child does in its parent's memory and descriptor table, while the parent sleeps: enter the namespaces, which a
 * process that is not alone in them cannot, and leave a socket behind. */
struct errand {
    int user, net, domain, type, protocol;
    volatile int fd, error;
};

static int run_errand(void *argument) {
    struct errand *e = argument;
    if (setns(e->user, CLONE_NEWUSER) < 0 || setns(e->net, CLONE_NEWNET) < 0 ||
        (e->fd = socket(e->domain, e->type, e->protocol)) < 0) {
        e->error = errno;
    }
    _exit(0);
}

/* Without privileges of our own: those that we have in the user namespace of a program of ours. */
static int send_child(struct errand *e) {
    static _Alignas(16) char stack[32768]; /* one at a time: the GIL is held throughout */
    e->fd = -1;
    e->error = 0;
    pid_t child = clone(run_errand, stack + sizeof stack, CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD, e);
    if (child < 0) {
        return -1;
    }
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {
    }
    errno = e->error;
    return e->fd;
}

/* socket_in(net, user, domain, type, protocol): a socket of the network namespace `net`, which belongs to the user
 * namespace `user` (-1: ours). */
PyObject *k_socket_in(ARGS) {
    static int home = -1; /* of the one thread that switches */
    int domain, type, protocol, user;
    if (arity("socket_in", nargs, 5) < 0 || as_int(args[2], &domain) < 0 || as_int(args[3], &type) < 0 ||
        as_int(args[4], &protocol) < 0) {
        return NULL;
    }
    int net = as_fd(module, args[0]);
    if (net < 0) {
        return NULL;
    }
    if (Py_TYPE(args[1]) == state_of(module)->fd_type) {
        user = as_fd(module, args[1]);
    } else if (as_int(args[1], &user) < 0) {
        return NULL;
    }
    type |= SOCK_CLOEXEC;
    if (user >= 0) {
        struct errand e = {.user = user, .net = net, .domain = domain, .type = type, .protocol = protocol};
        return fd_result(module, send_child(&e));
    }
    if (home < 0 && (home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (setns(net, CLONE_NEWNET) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    int fd = socket(domain, type, protocol);
    int error = errno;
    if (setns(home, CLONE_NEWNET) < 0) { /* every further socket would be somebody else's */
        abort();
    }
    errno = error;
    return fd_result(module, fd);
}
