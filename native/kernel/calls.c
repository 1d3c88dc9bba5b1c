/* The two calls that every same-host connection goes through, each in one step: connect(2) and accept(2). */
#include "kernel.h"

/* nudge(fd): wake whoever polls a Unix socket for writing. connect(2) wakes nobody at its own end, as TCP does when it
 * is done, so an edge-triggered registration made before it would never fire. Setting the send buffer (to what it is)
 * calls sk_write_space(). */
int nudge(int fd) {
    int size = 0;
    socklen_t length = sizeof size;
    int result = getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &length);
    size /= 2;
    return result < 0 ? result : setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

/* Name a socket and connect it; `flags` are its status flags. 0 or an errno. */
int join_now(int fd, int flags, const struct sockaddr_un *own, socklen_t own_size, const struct sockaddr_un *peer,
             socklen_t peer_size) {
    if (bind(fd, (const struct sockaddr *)own, own_size) < 0) {
        return errno;
    }
    lend(fd, flags);
    enter();
    int error = connect(fd, (const struct sockaddr *)peer, peer_size) < 0 ? errno : 0;
    leave();
    if (error == EINTR) { /* see connect_now */
        error = EAGAIN;
    }
    take_back(fd, flags);
    return error;
}

/* join(listener, id, fd, status flags, name, path, reply): the whole of connect(2) to an app of this host, once it is
 * decided: name the socket, connect it, reply (EINPROGRESS when it is non-blocking, as TCP does even on loopback; and
 * then its pollers are woken). 0; -1 when the caller was gone before the reply; or the errno of a connection that
 * failed, with no reply sent. Without `reply` none is sent at all. */
PyObject *k_join(ARGS) {
    uint64_t id;
    int flags, reply;
    char *name, *path;
    Py_ssize_t name_size, path_size;
    struct sockaddr_un own, peer;
    socklen_t own_size, peer_size;
    if (arity("join", nargs, 7) < 0 || as_u64(args[1], &id) < 0 || as_int(args[3], &flags) < 0 ||
        as_int(args[6], &reply) < 0 || as_bytes(args[4], &name, &name_size) < 0 ||
        as_bytes(args[5], &path, &path_size) < 0 || unix_address(&own, name, name_size, &own_size) < 0 ||
        unix_address(&peer, path, path_size, &peer_size) < 0) {
        return NULL;
    }
    int listener = as_fd(module, args[0]);
    int fd = listener < 0 ? -1 : as_fd(module, args[2]);
    if (fd < 0) {
        return NULL;
    }
    int error = join_now(fd, flags, &own, own_size, &peer, peer_size);
    if (error || !reply) {
        return PyLong_FromLong(error);
    }
    if (flags & O_NONBLOCK) {
        nudge(fd);
    }
    release(module, args[2]);
    return PyLong_FromLong(reply_value(listener, id, 0, flags & O_NONBLOCK ? EINPROGRESS : 0) < 0 ? -1 : 0);
}

/* Who may connect to a service's socket: this switch, and its predecessors whose connections still wait in a queue. */
static pid_t trusted[16];
static size_t trusted_count;

PyObject *k_trust(ARGS) {
    int pid;
    (void)module;
    if (arity("trust", nargs, 1) < 0 || as_int(args[0], &pid) < 0) {
        return NULL;
    }
    trusted[trusted_count++ % (sizeof trusted / sizeof *trusted)] = pid;
    Py_RETURN_NONE;
}

static int is_trusted(int connection) {
    struct ucred peer;
    socklen_t size = sizeof peer;
    if (getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) {
        return 0;
    }
    for (size_t i = 0; i < trusted_count && i < sizeof trusted / sizeof *trusted; i++) {
        if (peer.pid == trusted[i]) {
            return 1;
        }
    }
    return 0;
}

/* The whole of accept(2) for a connection of another app on this host: take it from the queue of `fd`, tell the caller
 * its peer (`pointers`: where the address goes, and its length), put it there as the reply. `held`, our duplicate of
 * the listener, is closed before that. The number given; -EAGAIN and other errors of accept(2), not replied yet; or
 * INT_MIN with `left`, (Fd, peer, errno), for what Python must look at: with errno 0 no connection of an app (a bell),
 * else one that could not be handed over and must not be lost; with `left` NULL there is an exception. */
int accept_given(PyObject *module, int listener, uint64_t id, int tid, int fd, int *held, const uint64_t *pointers,
                 int family, int flags, PyObject **left) {
    struct sockaddr_storage peer;
    socklen_t size;
    *left = NULL;
    int accepted = accept_now(fd, &peer, &size);
    if (accepted < 0) {
        return -errno;
    }
    struct connection_name name;
    int error = 0;
    if (!is_trusted(accepted)) { /* its name may say anything: Python sees that it is nobody's, and closes it */
        size = sizeof(sa_family_t);
    }
    if (read_name((const struct sockaddr_un *)&peer, size, &name)) {
        if (pointers[0] != 0) {
            union peer_address client;
            socklen_t length = shown_address(name.client_ip, name.client_size, name.client_port, family, &client);
            error = write_pair(listener, id, tid, pointers[0], pointers[1], &client, (int32_t)length);
        }
        if (error == EFAULT || error == EINVAL) { /* the connection is lost, as in accept(2) itself */
            close(accepted);
            return -error;
        }
        inherit(fd, accepted);
        if (flags & SOCK_NONBLOCK) {
            fcntl(accepted, F_SETFL, O_RDWR | O_NONBLOCK);
        }
        struct seccomp_notif_addfd add = {.id = id,
                                          .srcfd = (uint32_t)accepted,
                                          .newfd_flags = flags & SOCK_CLOEXEC ? O_CLOEXEC : 0,
                                          .flags = SECCOMP_ADDFD_FLAG_SEND};
        if (held != NULL) {
            close_guarded(*held);
            *held = -1;
        }
        int number = error ? -1 : ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
        if (number >= 0) {
            close_guarded(accepted);
            return number;
        }
        error = error ? error : errno;
        fcntl(accepted, F_SETFL, O_RDWR);
    }
    PyObject *owned = fd_wrap(state_of(module)->fd_type, accepted);
    if (owned != NULL) {
        *left = Py_BuildValue("(Ny#i)", owned, (char *)&peer, (Py_ssize_t)size, error);
    }
    return INT_MIN;
}

/* accept_give(listener, id, tid, fd, address, length_address, family, flags): see accept_given. `fd` is closed when
 * the connection was given. */
PyObject *k_accept_give(ARGS) {
    uint64_t id, pointers[2];
    int tid, family, flags;
    if (arity("accept_give", nargs, 8) < 0 || as_u64(args[1], &id) < 0 || as_int(args[2], &tid) < 0 ||
        as_u64(args[4], &pointers[0]) < 0 || as_u64(args[5], &pointers[1]) < 0 || as_int(args[6], &family) < 0 ||
        as_int(args[7], &flags) < 0) {
        return NULL;
    }
    int listener = as_fd(module, args[0]);
    int fd = listener < 0 ? -1 : as_fd(module, args[3]);
    if (fd < 0) {
        return NULL;
    }
    PyObject *left;
    int *held = Py_TYPE(args[3]) == state_of(module)->fd_type ? &((FdObject *)args[3])->fd : NULL;
    int number = accept_given(module, listener, id, tid, fd, held, pointers, family, flags, &left);
    return number == INT_MIN ? left : PyLong_FromLong(number);
}
