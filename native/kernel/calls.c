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
    if (bind(fd, (struct sockaddr *)&own, own_size) < 0) {
        return PyLong_FromLong(errno);
    }
    if (!(flags & O_NONBLOCK)) { /* see connect_now */
        fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    }
    enter();
    int error = connect(fd, (struct sockaddr *)&peer, peer_size) < 0 ? errno : 0;
    leave();
    if (error == EINTR) { /* see connect_now */
        error = EAGAIN;
    }
    if (!(flags & O_NONBLOCK)) {
        fcntl(fd, F_SETFL, flags);
    }
    if (error || !reply) {
        return PyLong_FromLong(error);
    }
    struct seccomp_notif_resp response = {.id = id};
    if (flags & O_NONBLOCK) {
        nudge(fd);
        response.error = -EINPROGRESS;
    }
    release(module, args[2]);
    return PyLong_FromLong(ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response) < 0 ? -1 : 0);
}

/* What the abstract name of a connecting socket says behind its magic, in hexadecimal, as switch/naming.py makes it:
 * network byte order, no padding. */
struct __attribute__((packed)) connection_name {
    unsigned char salt[2];
    uint32_t serial;
    uint16_t client_port;
    uint32_t client_app, server_app;
    unsigned char client_ip[16], client_size, server_ip[16], server_size;
    uint16_t server_port;
};

enum { MAGIC_SIZE = 4 };

static int digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

/* Whether a peer's sockaddr_un is such a name, and what it says. */
static int read_name(const struct sockaddr_un *peer, socklen_t size, const char *magic, struct connection_name *name) {
    if (size != offsetof(struct sockaddr_un, sun_path) + MAGIC_SIZE + 2 * sizeof *name ||
        memcmp(peer->sun_path, magic, MAGIC_SIZE) != 0) {
        return 0;
    }
    const char *text = peer->sun_path + MAGIC_SIZE;
    for (size_t i = 0; i < sizeof *name; i++) {
        int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
        if (high < 0 || low < 0) {
            return 0;
        }
        ((unsigned char *)name)[i] = (unsigned char)(high << 4 | low);
    }
    return 1;
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

union peer_address {
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
};

/* The client's virtual address as an AF_INET or AF_INET6 socket shows it: an IPv4 one is mapped for the latter, an
 * IPv6 one cannot be said to the former. */
static socklen_t client_address(const struct connection_name *name, int family, union peer_address *address) {
    memset(address, 0, sizeof *address);
    if (family == AF_INET) {
        address->in.sin_family = AF_INET;
        address->in.sin_port = name->client_port;
        if (name->client_size == 4) {
            memcpy(&address->in.sin_addr, name->client_ip, 4);
        }
        return sizeof address->in;
    }
    address->in6.sin6_family = AF_INET6;
    address->in6.sin6_port = name->client_port;
    if (name->client_size == 4) {
        memset(address->in6.sin6_addr.s6_addr + 10, 0xff, 2);
        memcpy(address->in6.sin6_addr.s6_addr + 12, name->client_ip, 4);
    } else {
        memcpy(&address->in6.sin6_addr, name->client_ip, 16);
    }
    return sizeof address->in6;
}

/* accept_give(listener, id, tid, fd, address, length_address, family, flags, magic): the whole of accept(2) for a
 * connection of another app on this host: take it from the queue, tell the caller its peer, put it there as the reply.
 * One step, because every connection goes through it. `fd` is closed with it. The number given; -EAGAIN and other
 * errors of accept(2); or (Fd, peer, errno) for what Python must look at: with errno 0 no connection of an app (a
 * bell), else one that could not be handed over and must not be lost. */
PyObject *k_accept_give(ARGS) {
    uint64_t id, address, length_address;
    int tid, family, flags;
    char *magic;
    Py_ssize_t magic_size;
    if (arity("accept_give", nargs, 9) < 0 || as_u64(args[1], &id) < 0 || as_int(args[2], &tid) < 0 ||
        as_u64(args[4], &address) < 0 || as_u64(args[5], &length_address) < 0 || as_int(args[6], &family) < 0 ||
        as_int(args[7], &flags) < 0 || as_bytes(args[8], &magic, &magic_size) < 0) {
        return NULL;
    }
    int listener = as_fd(module, args[0]);
    int fd = listener < 0 ? -1 : as_fd(module, args[3]);
    if (fd < 0) {
        return NULL;
    }
    struct sockaddr_storage peer;
    socklen_t size;
    int accepted = accept_now(fd, &peer, &size);
    if (accepted < 0) {
        return PyLong_FromLong(-errno);
    }
    struct connection_name name;
    int error = 0;
    if (!is_trusted(accepted)) { /* its name may say anything: Python sees that it is nobody's, and closes it */
        size = sizeof(sa_family_t);
    }
    if (magic_size == MAGIC_SIZE && read_name((const struct sockaddr_un *)&peer, size, magic, &name)) {
        if (address != 0) {
            union peer_address client;
            socklen_t length = client_address(&name, family, &client);
            error = write_pair(listener, id, tid, address, length_address, &client, (int32_t)length);
        }
        if (error == EFAULT || error == EINVAL) { /* the connection is lost, as in accept(2) itself */
            close(accepted);
            return PyLong_FromLong(-error);
        }
        inherit(fd, accepted);
        if (flags & SOCK_NONBLOCK) {
            fcntl(accepted, F_SETFL, O_RDWR | O_NONBLOCK);
        }
        struct seccomp_notif_addfd add = {.id = id,
                                          .srcfd = (uint32_t)accepted,
                                          .newfd_flags = flags & SOCK_CLOEXEC ? O_CLOEXEC : 0,
                                          .flags = SECCOMP_ADDFD_FLAG_SEND};
        release(module, args[3]);
        int number = error ? -1 : ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
        if (number >= 0) {
            close(accepted);
            return PyLong_FromLong(number);
        }
        error = error ? error : errno;
        fcntl(accepted, F_SETFL, O_RDWR);
    }
    PyObject *owned = fd_wrap(state_of(module)->fd_type, accepted);
    return owned == NULL ? NULL : Py_BuildValue("(Ny#i)", owned, (char *)&peer, (Py_ssize_t)size, error);
}
