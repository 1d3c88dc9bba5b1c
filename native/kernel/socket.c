/* Sockets, by calls that never wait. socket(7), unix(7). */
#include "kernel.h"

PyObject *k_socket(ARGS) {
    int domain, type, protocol;
    if (arity("socket", nargs, 3) < 0 || as_int(args[0], &domain) < 0 || as_int(args[1], &type) < 0 ||
        as_int(args[2], &protocol) < 0) {
        return NULL;
    }
    return fd_result(module, socket(domain, type | SOCK_CLOEXEC, protocol));
}

PyObject *k_cookie(ARGS) {
    if (arity("cookie", nargs, 1) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    if (fd < 0) {
        return NULL;
    }
    uint64_t cookie;
    socklen_t size = sizeof cookie;
    if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) < 0) {
        return PyLong_FromLong(-errno);
    }
    return PyLong_FromUnsignedLongLong(cookie);
}

PyObject *k_status_flags(ARGS) {
    if (arity("status_flags", nargs, 1) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    if (fd < 0) {
        return NULL;
    }
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(flags);
}

PyObject *k_set_status_flags(ARGS) {
    int flags;
    if (arity("set_status_flags", nargs, 2) < 0 || as_int(args[1], &flags) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    return fd < 0 ? NULL : errno_result(fcntl(fd, F_SETFL, flags));
}

typedef int (*address_call)(int, const struct sockaddr *, socklen_t);

static PyObject *with_address(ARGS, const char *name, address_call call) {
    char *address;
    Py_ssize_t size;
    if (arity(name, nargs, 2) < 0 || as_bytes(args[1], &address, &size) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    return fd < 0 ? NULL : errno_result(call(fd, (const struct sockaddr *)address, (socklen_t)size));
}

PyObject *k_bind(ARGS) { return with_address(module, args, nargs, "bind", bind); }

/* connect(2) that never waits. The file may be an app's, and blocking: loan.c. */
int connect_now(int fd, const struct sockaddr *address, socklen_t size) {
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0) {
        return -1;
    }
    lend(fd, flags);
    enter();
    int result = connect(fd, address, size);
    leave();
    /* It had lost O_NONBLOCK again, and would have waited: patience.c. */
    int error = errno != EINTR ? errno : address->sa_family == AF_UNIX ? EAGAIN : EINPROGRESS;
    take_back(fd, flags);
    errno = error;
    return result;
}

PyObject *k_connect(ARGS) { return with_address(module, args, nargs, "connect", connect_now); }

int unix_address(struct sockaddr_un *address, const char *name, Py_ssize_t size, socklen_t *length) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    if (size > (Py_ssize_t)sizeof address->sun_path) {
        PyErr_SetString(PyExc_ValueError, "name too long for a Unix socket");
        return -1;
    }
    memcpy(address->sun_path, name, (size_t)size);
    *length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)size);
    return 0;
}

/* connect_unix(fd, name, path): name the socket (an abstract name: it tells the server who connects), connect it. */
PyObject *k_connect_unix(ARGS) {
    char *name, *path;
    Py_ssize_t name_size, path_size;
    struct sockaddr_un own, peer;
    socklen_t own_size, peer_size;
    if (arity("connect_unix", nargs, 3) < 0 || as_bytes(args[1], &name, &name_size) < 0 ||
        as_bytes(args[2], &path, &path_size) < 0 || unix_address(&own, name, name_size, &own_size) < 0 ||
        unix_address(&peer, path, path_size, &peer_size) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    if (fd < 0) {
        return NULL;
    }
    if (name_size > 0 && bind(fd, (struct sockaddr *)&own, own_size) < 0) {
        return PyLong_FromLong(errno);
    }
    return errno_result(connect_now(fd, (struct sockaddr *)&peer, peer_size));
}

PyObject *k_bind_unix(ARGS) {
    char *name;
    Py_ssize_t name_size;
    struct sockaddr_un own;
    socklen_t own_size;
    if (arity("bind_unix", nargs, 2) < 0 || as_bytes(args[1], &name, &name_size) < 0 ||
        unix_address(&own, name, name_size, &own_size) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    return fd < 0 ? NULL : errno_result(bind(fd, (struct sockaddr *)&own, own_size));
}

PyObject *k_listen(ARGS) {
    int backlog;
    if (arity("listen", nargs, 2) < 0 || as_int(args[1], &backlog) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    return fd < 0 ? NULL : errno_result(listen(fd, backlog));
}

PyObject *k_shutdown(ARGS) {
    int how;
    if (arity("shutdown", nargs, 2) < 0 || as_int(args[1], &how) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    return fd < 0 ? NULL : errno_result(shutdown(fd, how));
}

/* peek(fd, size): what has arrived, up to `size` bytes, and stays there. recv(2), MSG_PEEK. Bytes (none at the end of
 * the stream), or -errno. */
PyObject *k_peek(ARGS) {
    int size;
    if (arity("peek", nargs, 2) < 0 || as_int(args[1], &size) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    if (fd < 0) {
        return NULL;
    }
    char *buffer = size > 0 && size <= 1 << 20 ? malloc((size_t)size) : NULL;
    if (buffer == NULL) {
        return PyErr_NoMemory();
    }
    ssize_t got = recv(fd, buffer, (size_t)size, MSG_PEEK | MSG_DONTWAIT);
    PyObject *result = got < 0 ? PyLong_FromLong(-errno) : PyBytes_FromStringAndSize(buffer, got);
    free(buffer);
    return result;
}

PyObject *k_send(ARGS) {
    char *data;
    Py_ssize_t size;
    int flags;
    if (arity("send", nargs, 3) < 0 || as_bytes(args[1], &data, &size) < 0 || as_int(args[2], &flags) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    if (fd < 0) {
        return NULL;
    }
    ssize_t sent = send(fd, data, (size_t)size, flags);
    return PyLong_FromSsize_t(sent < 0 ? -errno : sent);
}

/* accept4(2) that never waits, whatever the file's flags are (it may be an app's, and blocking). -1 and errno on
 * failure. What it returns does not close on execve(2): by that a successor tells our own connections from those that
 * were borrowed, as all that comes by pidfd_getfd(2) does (switch/estate.py). */
int accept_now(int fd, struct sockaddr_storage *peer, socklen_t *size) {
    struct pollfd ready = {.fd = fd, .events = POLLIN | POLLRDHUP};
    if (poll(&ready, 1, 0) <= 0) {
        errno = EAGAIN;
        return -1;
    }
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0) {
        return -1;
    }
    lend(fd, flags); /* somebody else may take the connection first */
    *size = sizeof *peer;
    enter();
    int accepted = accept4(fd, (struct sockaddr *)peer, size, 0);
    leave();
    int error = errno == EINTR ? EAGAIN : errno; /* see connect_now */
    take_back(fd, flags);
    if (*size > sizeof *peer) {
        *size = sizeof *peer;
    }
    /* After shutdown(2) accept(2) says EINVAL, but a Unix socket that must not wait forgets to look. */
    errno = error == EAGAIN && ready.revents & POLLRDHUP ? EINVAL : error;
    return accepted;
}

#ifndef SO_BUF_LOCK /* Linux 5.14: which sizes of buffers the owner has set */
#define SO_BUF_LOCK 72
#endif
enum { SNDBUF_IS_SET = 1, RCVBUF_IS_SET = 2 };

/* A size of a buffer is doubled when it is set: socket(7). */
static void inherit_size(int from, int to, int name) {
    int size;
    socklen_t length = sizeof size;
    if (getsockopt(from, SOL_SOCKET, name, &size, &length) == 0) {
        size /= 2;
        setsockopt(to, SOL_SOCKET, name, &size, sizeof size);
    }
}

/* Options of SOL_SOCKET are the kernel's own on a Unix socket and on a TCP one. What an app has set there goes from a
 * listener to its connections (as TCP does, and Unix sockets do not), and from a socket to the one that takes its
 * place. Sizes of buffers that nobody has set are not: TCP's are other ones than a Unix socket's, and grow. */
void inherit(int from, int to) {
    static const int names[] = {SO_KEEPALIVE, SO_LINGER,    SO_RCVTIMEO, SO_SNDTIMEO,
                                SO_RCVLOWAT,  SO_OOBINLINE, SO_PRIORITY};
    enum { COUNT = sizeof names / sizeof *names, SIZE = 16 };
    static char fresh[COUNT][SIZE]; /* of a Unix socket nobody has touched; the GIL is held throughout */
    static int known;
    if (!known) {
        int untouched = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        for (int i = 0; i < COUNT; i++) {
            socklen_t size = SIZE;
            getsockopt(untouched, SOL_SOCKET, names[i], fresh[i], &size);
        }
        close(untouched);
        known = 1;
    }
    for (int i = 0; i < COUNT; i++) {
        char value[SIZE] = {0};
        socklen_t size = SIZE;
        if (getsockopt(from, SOL_SOCKET, names[i], value, &size) < 0 || memcmp(value, fresh[i], SIZE) == 0) {
            continue;
        }
        setsockopt(to, SOL_SOCKET, names[i], value, size);
    }
    int set = 0;
    socklen_t length = sizeof set;
    getsockopt(from, SOL_SOCKET, SO_BUF_LOCK, &set, &length);
    if (set & SNDBUF_IS_SET) {
        inherit_size(from, to, SO_SNDBUF);
    }
    if (set & RCVBUF_IS_SET) {
        inherit_size(from, to, SO_RCVBUF);
    }
}

PyObject *k_inherit(ARGS) {
    if (arity("inherit", nargs, 2) < 0) {
        return NULL;
    }
    int from = as_fd(module, args[0]);
    int to = from < 0 ? -1 : as_fd(module, args[1]);
    if (to < 0) {
        return NULL;
    }
    inherit(from, to);
    Py_RETURN_NONE;
}

/* is_shut(fd): was the reading side shut down (shutdown(2)), as seen by poll(2)? */
int is_half_closed(int fd) {
    struct pollfd state = {.fd = fd, .events = POLLRDHUP};
    return poll(&state, 1, 0) > 0 && state.revents & POLLRDHUP;
}

PyObject *k_is_shut(ARGS) {
    if (arity("is_shut", nargs, 1) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    return fd < 0 ? NULL : PyBool_FromLong(is_half_closed(fd));
}

PyObject *k_accept(ARGS) {
    if (arity("accept", nargs, 1) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    if (fd < 0) {
        return NULL;
    }
    struct sockaddr_storage peer;
    socklen_t size;
    int accepted = accept_now(fd, &peer, &size);
    if (accepted < 0) {
        return PyLong_FromLong(errno);
    }
    PyObject *owned = fd_wrap(state_of(module)->fd_type, accepted);
    return owned == NULL ? NULL : Py_BuildValue("(Ny#)", owned, (char *)&peer, (Py_ssize_t)size);
}

typedef int (*name_call)(int, struct sockaddr *, socklen_t *);

static PyObject *name_of(ARGS, const char *name, name_call call) {
    if (arity(name, nargs, 1) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    if (fd < 0) {
        return NULL;
    }
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    if (call(fd, (struct sockaddr *)&address, &size) < 0) {
        return PyLong_FromLong(errno);
    }
    return PyBytes_FromStringAndSize((char *)&address, (Py_ssize_t)(size > sizeof address ? sizeof address : size));
}

PyObject *k_getsockname(ARGS) { return name_of(module, args, nargs, "getsockname", getsockname); }
PyObject *k_getpeername(ARGS) { return name_of(module, args, nargs, "getpeername", getpeername); }

PyObject *k_getsockopt(ARGS) {
    int level, option, size;
    char buffer[4096];
    if (arity("getsockopt", nargs, 4) < 0 || as_int(args[1], &level) < 0 || as_int(args[2], &option) < 0 ||
        as_int(args[3], &size) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    if (fd < 0) {
        return NULL;
    }
    socklen_t length = size < 0 ? 0 : (size_t)size > sizeof buffer ? sizeof buffer : (socklen_t)size;
    if (getsockopt(fd, level, option, buffer, &length) < 0) {
        return PyLong_FromLong(errno);
    }
    return PyBytes_FromStringAndSize(buffer, (Py_ssize_t)length);
}

PyObject *k_setsockopt(ARGS) {
    int level, option;
    char *data;
    Py_ssize_t size;
    if (arity("setsockopt", nargs, 4) < 0 || as_int(args[1], &level) < 0 || as_int(args[2], &option) < 0 ||
        as_bytes(args[3], &data, &size) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    return fd < 0 ? NULL : errno_result(setsockopt(fd, level, option, data, (socklen_t)size));
}
