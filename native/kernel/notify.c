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

/* A socket that was just made, in the ring behind the slots of the journal: switch/journal.py. */
static void note_birth(Py_buffer *journal, uint64_t cookie, uint64_t what) {
    if (journal->len >= BIRTHS_AT + (Py_ssize_t)((1 + BIRTHS) * sizeof(uint64_t[2]))) {
        uint64_t (*ring)[2] = (uint64_t (*)[2])(void *)((char *)journal->buf + BIRTHS_AT);
        uint64_t *entry = ring[1 + ring[0][0]++ % BIRTHS];
        entry[0] = cookie;
        entry[1] = what;
    }
}

/* socket(2) for TCP needs no decision, so it is answered here: a stream socket becomes the caller's, the number its
 * reply: AF_UNIX, or of the family it asked for when the app is to use TCP only. The cookie and what the app believes
 * the socket to be go into the dictionary `born`; Python looks there when the socket is used for the first time.
 * Returns 1 when it was done, 0 for a call that Python must judge, -1 with an exception set. */
static int serve_socket(int listener, int tcp, const struct seccomp_notif *n, PyObject *born, Py_buffer *journal) {
    const int flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
    int family = (int)n->data.args[0], type = (int)n->data.args[1], protocol = (int)n->data.args[2];
    if ((type & ~flags) != SOCK_STREAM || (protocol != 0 && protocol != IPPROTO_TCP)) {
        return 0;
    }
    int fd = socket(tcp ? family : AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (type & SOCK_NONBLOCK), 0);
    if (fd < 0) {
        return 0;
    }
    uint64_t cookie = 0;
    socklen_t size = sizeof cookie;
    struct seccomp_notif_addfd add = {.id = n->id,
                                      .srcfd = (uint32_t)fd,
                                      .newfd_flags = type & SOCK_CLOEXEC ? O_CLOEXEC : 0,
                                      .flags = SECCOMP_ADDFD_FLAG_SEND};
    if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) < 0) {
        close(fd);
        return 0;
    }
    /* Known before the app can use it: another thread of it may be faster than we are. */
    PyObject *key = PyLong_FromUnsignedLongLong(cookie);
    uint64_t what = (uint64_t)(tcp ? BORN_TCP : 0) | (uint64_t)family;
    PyObject *value = PyLong_FromUnsignedLongLong((uint64_t)listener << 8 | what);
    note_birth(journal, cookie, what);
    int status = key == NULL || value == NULL ? -1 : PyDict_SetItem(born, key, value);
    if (status == 0 && ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add) < 0) {
        int error = errno;
        status = PyDict_DelItem(born, key);
        if (error != ENOENT) { /* EMFILE: the caller's limit, and its answer; ENOENT: it is gone */
            struct seccomp_notif_resp response = {.id = n->id, .error = -error};
            ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
        }
    }
    Py_XDECREF(key);
    Py_XDECREF(value);
    close(fd);
    return status < 0 ? -1 : 1;
}

/* The value of a number in a dictionary, borrowed; NULL when there is none, or with an exception set. */
static PyObject *look_up(PyObject *dictionary, uint64_t number) {
    PyObject *key = PyLong_FromUnsignedLongLong(number);
    PyObject *value = key == NULL ? NULL : PyDict_GetItemWithError(dictionary, key);
    Py_XDECREF(key);
    return value;
}

/* struct msghdr, as far as it names an address: recvmsg(2). */
struct message_name {
    uint64_t address;
    uint32_t length;
};

/* sendto(2) and sendmsg(2) of a UDP socket to where it sends all the time: `steady` has the sockaddr that needs no
 * decision, by the socket's cookie, and the kernel makes the call (switch/udp.py tells why that is safe). `pidfds` has
 * the threads that were seen before. Returns as serve_socket does; whatever is not as expected is Python's. */
static int serve_steady(PyObject *module, int listener, int is_message, const struct seccomp_notif *n, PyObject *pidfds,
                        PyObject *steady) {
    PyObject *known = look_up(pidfds, n->pid);
    if (known == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    int pidfd = as_fd(module, known);
    if (pidfd < 0) {
        return -1;
    }
    int fd = (int)syscall(SYS_pidfd_getfd, pidfd, (int)n->data.args[0], 0);
    if (fd < 0) {
        return 0;
    }
    uint64_t cookie = 0;
    socklen_t size = sizeof cookie;
    int failed = getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size);
    close(fd);
    PyObject *expected = failed ? NULL : look_up(steady, cookie);
    if (expected == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    char *wanted, given[sizeof(struct sockaddr_storage)];
    Py_ssize_t length;
    if (as_bytes(expected, &wanted, &length) < 0) {
        return -1;
    }
    struct message_name name = {n->data.args[4], (uint32_t)n->data.args[5]};
    if (is_message && vm_copy((int)n->pid, n->data.args[1], &name, sizeof name, 0)) {
        return 0;
    }
    if (name.length != (size_t)length || name.length > sizeof given ||
        vm_copy((int)n->pid, name.address, given, name.length, 0) || memcmp(given, wanted, name.length) != 0) {
        return 0;
    }
    struct seccomp_notif_resp response = {.id = n->id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
    return 1;
}

/* The kernel writes a notification straight into slot 0 of the journal: were it copied there afterwards, a switch that
 * is killed in between would leave nobody who knows of the call. It has to be zero before: seccomp_unotify(2). */
static PyObject *wait_for(PyObject *module, PyObject *const *args, Py_buffer *journal) {
    struct seccomp_notif *n = journal->buf;
    int timeout, nr_socket, nr_sendto, nr_sendmsg;
    memset(n, 0, sizeof *n);
    if (as_int(args[1], &timeout) < 0 || !PyArg_ParseTuple(args[2], "iii:wait", &nr_socket, &nr_sendto, &nr_sendmsg)) {
        return NULL;
    }
    int epoll = as_fd(module, args[0]);
    if (epoll < 0) {
        return NULL;
    }
    struct epoll_event event;
    int count;
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
    if (!(event.data.u64 & NOTIFIER)) {
        return tuple_of((uint64_t[]){event.data.u64, event.events}, 2);
    }
    int fd = (int)(event.data.u64 & ~(NOTIFIER | TCP_ONLY));
    if (!(event.events & EPOLLIN)) {
        return tuple_of((uint64_t[]){(uint64_t)fd, event.events}, 2);
    }
    if (ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, n) < 0) {
        if (errno == ENOENT || errno == EINTR || errno == EAGAIN) {
            Py_RETURN_NONE; /* the caller was killed or interrupted before we looked */
        }
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    int served = 0;
    if (n->data.nr == nr_socket) {
        served = serve_socket(fd, (event.data.u64 & TCP_ONLY) != 0, n, args[3], journal);
    } else if (n->data.nr == nr_sendto || n->data.nr == nr_sendmsg) {
        served = serve_steady(module, fd, n->data.nr == nr_sendmsg, n, args[5], args[6]);
    }
    if (served < 0) {
        return NULL;
    }
    if (served > 0) {
        Py_RETURN_NONE;
    }
    return tuple_of((uint64_t[]){(uint64_t)fd, n->id, n->pid, (uint64_t)n->data.nr, n->data.args[0], n->data.args[1],
                                 n->data.args[2], n->data.args[3], n->data.args[4], n->data.args[5]},
                    10);
}

/* wait(epoll, milliseconds, (numbers of socket(2), sendto(2), sendmsg(2)), born, journal, pidfds, steady): one event.
 * For a notifier the notification is received here, in the same step: (fd, id, tid, nr, six arguments); else (data,
 * events); None when the time is up or the caller is gone. */
PyObject *k_wait(ARGS) {
    if (arity("wait", nargs, 7) < 0) {
        return NULL;
    }
    Py_buffer journal;
    if (PyObject_GetBuffer(args[4], &journal, PyBUF_WRITABLE) < 0) {
        return NULL;
    }
    PyObject *event = NULL;
    if (journal.len < (Py_ssize_t)sizeof(struct seccomp_notif)) {
        PyErr_SetString(PyExc_ValueError, "the journal has no room for a notification");
    } else {
        event = wait_for(module, args, &journal);
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
