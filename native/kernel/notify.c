/* Seccomp notifications: seccomp_unotify(2), and the epoll that they arrive by. */
#include "kernel.h"

PyObject *k_epoll_watch(ARGS) {
    int operation;
    uint64_t events, data;
    if (arity("epoll_watch", nargs, 5) < 0 || as_int(args[1], &operation) < 0 || as_u64(args[3], &events) < 0 ||
        as_u64(args[4], &data) < 0) {
        return NULL;
    }
    int epoll = as_fd(module, args[0]);
    int fd = epoll < 0 ? -1 : as_fd(module, args[2]);
    if (fd < 0) {
        return NULL;
    }
    struct epoll_event event = {.events = (uint32_t)events, .data.u64 = data};
    return errno_result(epoll_ctl(epoll, operation, fd, &event));
}

static PyObject *tuple_of(const uint64_t *values, Py_ssize_t count) {
    PyObject *tuple = PyTuple_New(count);
    for (Py_ssize_t i = 0; tuple != NULL && i < count; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(values[i]);
        if (value == NULL) {
            Py_CLEAR(tuple);
        } else {
            PyTuple_SetItem(tuple, i, value); /* steals */
        }
    }
    return tuple;
}

/* (fd, id, tid, nr, six arguments) */
PyObject *tuple_of_call(int fd, const struct seccomp_notif *n) {
    return tuple_of((uint64_t[]){(uint64_t)fd, n->id, n->pid, (uint64_t)n->data.nr, n->data.args[0], n->data.args[1],
                                 n->data.args[2], n->data.args[3], n->data.args[4], n->data.args[5]},
                    10);
}

/* One event, or None; `done`: it was dealt with.
 *
 * The kernel writes a notification straight into slot 0 of the journal: were it copied there afterwards, a switch that
 * is killed in between would leave nobody who knows of the call. It has to be zero before: seccomp_unotify(2). */
static PyObject *wait_for(PyObject *module, ReflexObject *self, int epoll, int timeout, Py_buffer *journal, int *done) {
    struct seccomp_notif *n = journal->buf;
    struct epoll_event event;
    int count;
    *done = 0;
    memset(n, 0, sizeof *n);
    Py_BEGIN_ALLOW_THREADS;
    count = epoll_wait(epoll, &event, 1, timeout);
    Py_END_ALLOW_THREADS;
    if (count < 0 && errno != EINTR) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (count <= 0) {
        if (PyErr_CheckSignals() < 0) {
            return NULL;
        }
        Py_RETURN_NONE;
    }
    if (event.data.u64 & HELD) {
        *done = 1;
        return first_bytes(module, self, epoll, (int)(event.data.u64 & ~HELD), journal);
    }
    if (!(event.data.u64 & NOTIFIER)) {
        return tuple_of((uint64_t[]){event.data.u64, event.events}, 2);
    }
    int fd = (int)(event.data.u64 & ~(NOTIFIER | TCP_ONLY));
    if (!(event.events & EPOLLIN)) {
        return tuple_of((uint64_t[]){(uint64_t)fd, event.events}, 2);
    }
    if (ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, n) < 0) {
        if (errno == ENOENT || errno == EINTR || errno == EAGAIN) {
            *done = 1;
            Py_RETURN_NONE; /* the caller was killed or interrupted before we looked */
        }
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *more = NULL;
    int served = reflex(module, self, epoll, fd, (event.data.u64 & TCP_ONLY) != 0, n, journal, &more);
    if (served < 0 || more != NULL) {
        return more;
    }
    if (served > 0) {
        *done = 1;
        Py_RETURN_NONE;
    }
    return tuple_of_call(fd, n);
}

static int64_t milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The first event that is Python's; None when the time is over. */
static PyObject *wait_until(PyObject *module, PyObject *const *args, Py_buffer *journal) {
    int timeout, epoll = as_fd(module, args[0]);
    if (epoll < 0 || as_int(args[1], &timeout) < 0) {
        return NULL;
    }
    if (Py_TYPE(args[3]) != state_of(module)->reflex_type) {
        PyErr_SetString(PyExc_TypeError, "not a Reflex");
        return NULL;
    }
    int64_t end = timeout > 0 ? milliseconds() + timeout : 0, left = timeout;
    for (;;) {
        int done;
        PyObject *event = wait_for(module, (ReflexObject *)args[3], epoll, (int)left, journal, &done);
        left = timeout > 0 ? end - milliseconds() : timeout;
        if (event != Py_None || !done || left == 0 || (left < 0 && timeout > 0)) {
            return event; /* whoever is interrupted, too: a signal may mean that it should stop */
        }
        Py_DECREF(event);
    }
}

/* wait(epoll, milliseconds, journal, reflex): one event, or None when there is none in this time. For a notifier the
 * notification is received here, in the same step: (fd, id, tid, nr, six arguments); else (data, events). Where no
 * decision is needed it is answered as well (reflex.c), and the next one is waited for; unless there is something left
 * to do after an answer: a function and its arguments. */
PyObject *k_wait(ARGS) {
    if (arity("wait", nargs, 4) < 0) {
        return NULL;
    }
    Py_buffer journal;
    if (PyObject_GetBuffer(args[2], &journal, PyBUF_WRITABLE) < 0) {
        return NULL;
    }
    PyObject *event = NULL;
    if (journal.len < (Py_ssize_t)sizeof(struct seccomp_notif)) {
        PyErr_SetString(PyExc_ValueError, "the journal has no room for a notification");
    } else {
        event = wait_until(module, args, &journal);
    }
    PyBuffer_Release(&journal);
    return event;
}

static PyObject *send_response(PyObject *module, PyObject *const *args, int64_t value, int error, uint32_t flags) {
    int fd = as_fd(module, args[0]);
    uint64_t id;
    if (fd < 0 || as_u64(args[1], &id) < 0) {
        return NULL;
    }
    struct seccomp_notif_resp response = {.id = id, .val = value, .error = -error, .flags = flags};
    return errno_result(ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &response));
}

PyObject *k_reply(ARGS) {
    int error;
    if (arity("reply", nargs, 4) < 0 || as_int(args[3], &error) < 0) {
        return NULL;
    }
    int64_t value = PyLong_AsLongLong(args[2]);
    if (value == -1 && PyErr_Occurred()) {
        return NULL;
    }
    return send_response(module, args, value, error, 0);
}

PyObject *k_reply_continue(ARGS) {
    if (arity("reply_continue", nargs, 2) < 0) {
        return NULL;
    }
    return send_response(module, args, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
}

PyObject *k_still_valid(ARGS) {
    uint64_t id;
    if (arity("still_valid", nargs, 2) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    if (fd < 0 || as_u64(args[1], &id) < 0) {
        return NULL;
    }
    return PyBool_FromLong(ioctl(fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0);
}

/* Only a notification descriptor knows this ioctl: it says ENOENT for an id that never was, anything else ENOTTY or so.
 */
PyObject *k_is_notifier(ARGS) {
    if (arity("is_notifier", nargs, 1) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    if (fd < 0) {
        return NULL;
    }
    uint64_t id = 0;
    return PyBool_FromLong(ioctl(fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0 || errno == ENOENT);
}

PyObject *k_add_fd(ARGS) {
    uint64_t id;
    int target, cloexec, send;
    if (arity("add_fd", nargs, 6) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    if (fd < 0 || as_u64(args[1], &id) < 0) {
        return NULL;
    }
    int source = as_fd(module, args[2]);
    if (source < 0 || as_int(args[3], &target) < 0 || as_int(args[4], &cloexec) < 0 || as_int(args[5], &send) < 0) {
        return NULL;
    }
    struct seccomp_notif_addfd add = {
        .id = id,
        .srcfd = (uint32_t)source,
        .newfd = target < 0 ? 0 : (uint32_t)target,
        .newfd_flags = cloexec ? O_CLOEXEC : 0,
        .flags = (target < 0 ? 0 : SECCOMP_ADDFD_FLAG_SETFD) | (send ? SECCOMP_ADDFD_FLAG_SEND : 0),
    };
    int result = ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
    return PyLong_FromLong(result < 0 ? -errno : result);
}

PyObject *k_sync_wake_up(ARGS) {
    if (arity("sync_wake_up", nargs, 1) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    if (fd < 0) {
        return NULL;
    }
    return errno_result(ioctl(fd, SECCOMP_IOCTL_NOTIF_SET_FLAGS, 1UL));
}
