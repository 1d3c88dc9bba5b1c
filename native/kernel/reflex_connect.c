/* connect(2) to where one has led before. */
#include "reflex.h"

struct __attribute__((packed)) route_key { /* as switch/flows.py makes it */
    int32_t listener, family;
    char raw[sizeof(struct sockaddr_in6)];
};

/* Which of the targets is next: by turns, or drawn. */
Py_ssize_t choose(ReflexObject *self, RouteObject *route) {
    uint64_t count = (uint64_t)PyTuple_Size(route->targets);
    if (!route->drawn) {
        return (Py_ssize_t)(route->turn++ % count);
    }
    self->dice ^= self->dice << 13; /* xorshift64: Marsaglia, "Xorshift RNGs" (2003) */
    self->dice ^= self->dice >> 7;
    self->dice ^= self->dice << 17;
    return (Py_ssize_t)((self->dice >> 16) % count);
}

PyObject *service_of(RouteObject *route, Py_ssize_t index) {
    return PyTuple_GetItem(PyTuple_GetItem(route->targets, index), 2);
}

static void close_now(int *fd) {
    close_guarded(*fd);
    *fd = -1;
}

/* Connect a socket to one of a route's targets and reply. `fd`, our duplicate, is closed before that: when the app
 * closes its own, the socket must be closed. */
static int follow(PyObject *module, ReflexObject *self, int epoll, RouteObject *route, SockObject *sock, int *fd,
                  int listener, const struct seccomp_notif *n, struct waiter *waiter, Py_buffer *journal,
                  PyObject **event) {
    if (route->lobby != NULL && !has_room(self, route)) {
        return unknown();
    }
    Py_ssize_t index = choose(self, route);
    PyObject *target = PyTuple_GetItem(route->targets, index), *service = service_of(route, index);
    PyObject *tail = PyTuple_GetItem(target, 0), *path = PyTuple_GetItem(target, 1);
    if (route->lobby == NULL) {
        int there = find_waiter(module, service, 1, waiter);
        if (there <= 0) {
            return there;
        }
    }
    int port = ports_take((PortsObject *)route->ports);
    if (port <= 0) {
        return port;
    }
    char name[NAME_SIZE], *file;
    Py_ssize_t file_size;
    struct sockaddr_un own, peer;
    socklen_t own_size, peer_size;
    write_head(name, port);
    memcpy(name + HEAD_SIZE, PyBytes_AsString(tail), NAME_SIZE - HEAD_SIZE);
    if (as_bytes(path, &file, &file_size) < 0 || unix_address(&own, name, NAME_SIZE, &own_size) < 0 ||
        unix_address(&peer, file, file_size, &peer_size) < 0) {
        return -1;
    }
    PyObject *link = PyBytes_FromStringAndSize(name, NAME_SIZE);
    int flags = fcntl(*fd, F_GETFL);
    if (link == NULL || flags < 0) {
        Py_XDECREF(link);
        return unknown();
    }
    sock->named = 1; /* even if it fails: it cannot be bound again */
    if (join_now(*fd, flags, &own, own_size, &peer, peer_size)) {
        Py_DECREF(link);
        return 0; /* gone, or full: Python knows what then */
    }
    int lobby = route->lobby == NULL ? -1 : as_fd(module, route->lobby);
    int end = lobby < 0 ? -1 : take_end(lobby, &own, own_size);
    if (route->lobby != NULL && (end < 0 || hold(module, self, epoll, route, sock, port, end) < 0)) {
        Py_DECREF(link); /* our limits: it looks as if nobody were there */
        close_now(fd);
        reply_value(listener, n->id, 0, ECONNREFUSED);
        return PyErr_Occurred() ? -1 : 1;
    }
    replace_with(&sock->link, link);
    sock->answered = (int)n->pid;
    sock->phase = flags & O_NONBLOCK ? FINISHING : CONNECTED;
    route->counts[index]++;
    if (flags & O_NONBLOCK) {
        nudge(*fd);
    }
    close_now(fd);
    if (reply_value(listener, n->id, 0, flags & O_NONBLOCK ? EINPROGRESS : 0) < 0) {
        sock->phase = FINISHING; /* the call comes again, and is to succeed again */
    }
    if (waiter->parked != NULL) {
        return wake_waiter(module, self, service, waiter, journal, event);
    }
    if (end >= 0 && !self->ticking && self->on_hold != NULL) {
        self->ticking = 1;
        *event = PyTuple_Pack(1, self->on_hold);
        return *event == NULL ? -1 : 1;
    }
    return 1;
}

int serve_connect(PyObject *module, ReflexObject *self, int epoll, int listener, const struct seccomp_notif *n,
                  Py_buffer *journal, PyObject **event) {
    struct route_key key = {.listener = listener};
    size_t size = (size_t)(uint32_t)n->data.args[2];
    int fd;
    uint64_t cookie;
    if (size < sizeof(struct sockaddr_in) || size > sizeof key.raw || PyDict_Size(self->routes) == 0) {
        return 0;
    }
    int status = fetch(module, self, n, &fd, &cookie);
    if (status <= 0) {
        return status;
    }
    SockObject *sock = find(self, listener, cookie);
    RouteObject *route = NULL;
    if (sock != NULL && sock->unix_file && sock->phase == NEW && !sock->named &&
        (sock->bound == NULL || sock->bound == Py_None) && !vm_copy((int)n->pid, n->data.args[1], key.raw, size, 0) &&
        is_valid(listener, n->id)) {
        key.family = sock->family;
        route = (RouteObject *)look_up_bytes(self->routes, &key, offsetof(struct route_key, raw) + size);
    }
    if (route == NULL) {
        close_soon(fd, 1);
        return unknown();
    }
    Py_INCREF((PyObject *)route); /* Python may run below, and forget it */
    Py_INCREF((PyObject *)sock);
    struct waiter waiter = {.parked = NULL};
    status = follow(module, self, epoll, route, sock, &fd, listener, n, &waiter, journal, event);
    leave_waiter(&waiter);
    if (fd >= 0) {
        close_guarded(fd);
    }
    Py_DECREF((PyObject *)sock);
    Py_DECREF((PyObject *)route);
    return status;
}
