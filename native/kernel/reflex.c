/* What needs no decision is answered in the step that receives it: what was decided before, what a socket's own name
 * says, what was asked before. Whatever is not as expected is left to Python, which finds everything untouched.
 *
 * Each of the functions below returns 1 when the call was answered, 0 for a call that Python must judge, -1 with an
 * exception set. They decide on copies that were read once, and check afterwards that the caller still waits:
 * seccomp_unotify(2). */
#include "kernel.h"

enum {
    SO_ORIGINAL = 80, /* SO_ORIGINAL_DST, IP6T_SO_ORIGINAL_DST: linux/netfilter_ipv4.h */
    MAX_ANSWER = 512
};

int reply_value(int listener, uint64_t id, int64_t value, int error) {
    struct seccomp_notif_resp response = {.id = id, .val = value, .error = -error};
    return ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

/* The value of a number in a dictionary, borrowed; NULL when there is none, or with an exception set. */
static PyObject *look_up(PyObject *dictionary, uint64_t number) {
    PyObject *key = PyLong_FromUnsignedLongLong(number);
    PyObject *value = key == NULL ? NULL : PyDict_GetItemWithError(dictionary, key);
    Py_XDECREF(key);
    return value;
}

/* The same of some bytes. */
static PyObject *look_up_bytes(PyObject *dictionary, const void *data, size_t size) {
    PyObject *key = PyBytes_FromStringAndSize(data, (Py_ssize_t)size);
    PyObject *value = key == NULL ? NULL : PyDict_GetItemWithError(dictionary, key);
    Py_XDECREF(key);
    return value;
}

static void replace_with(PyObject **place, PyObject *stolen) {
    PyObject *old = *place;
    *place = stolen;
    Py_XDECREF(old);
}

static void replace(PyObject **place, PyObject *value) { replace_with(place, Py_NewRef(value)); }

static int unknown(void) { return PyErr_Occurred() ? -1 : 0; }

/* A duplicate of the descriptor in the first argument, and its socket's cookie. 1, or as above. */
static int fetch(PyObject *module, ReflexObject *self, const struct seccomp_notif *n, int *fd, uint64_t *cookie) {
    PyObject *known = look_up(self->pidfds, n->pid); /* a thread that was seen before: see call.PidFds */
    if (known == NULL) {
        return unknown();
    }
    int pidfd = as_fd(module, known);
    if (pidfd < 0) {
        return -1;
    }
    *fd = (int)syscall(SYS_pidfd_getfd, pidfd, (int)n->data.args[0], 0);
    if (*fd < 0) {
        return 0;
    }
    socklen_t size = sizeof *cookie;
    if (getsockopt(*fd, SOL_SOCKET, SO_COOKIE, cookie, &size) < 0) {
        close_soon(*fd, 1);
        return 0;
    }
    return 1;
}

/* The entry of a socket, borrowed; NULL when there is none that has to do with this app, or with an exception set. */
static SockObject *find(ReflexObject *self, int listener, uint64_t cookie) {
    SockObject *sock = (SockObject *)look_up(self->sockets, cookie);
    return sock != NULL && sock->app == look_up(self->apps, (uint64_t)listener) ? sock : NULL;
}

/* -- socket(2) */

static SockObject *new_sock(ReflexObject *self, PyObject *app, uint64_t cookie, int family, int unix_file) {
    PyTypeObject *type = (PyTypeObject *)self->sock_type;
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    SockObject *sock = (SockObject *)allocate(type, 0);
    if (sock != NULL) {
        sock->cookie = (long long)cookie;
        sock->app = Py_NewRef(app);
        sock->options = Py_NewRef(self->no_options);
        sock->family = family;
        sock->unix_file = (char)unix_file;
    }
    return sock;
}

/* Put an entry into the table, which owns it from now on. The entry, borrowed. */
static SockObject *add_sock(ReflexObject *self, SockObject *sock) {
    PyObject *key = sock == NULL ? NULL : PyLong_FromLongLong(sock->cookie);
    int status = key == NULL ? -1 : PyDict_SetItem(self->sockets, key, (PyObject *)sock);
    Py_XDECREF(key);
    Py_XDECREF((PyObject *)sock);
    return status < 0 ? NULL : sock;
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

/* A stream socket becomes the caller's, its number the reply: AF_UNIX, or of the family that was asked for when the app
 * is to use TCP only. */
static int serve_socket(ReflexObject *self, int listener, int tcp, const struct seccomp_notif *n, Py_buffer *journal) {
    const int flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
    int family = (int)n->data.args[0], type = (int)n->data.args[1], protocol = (int)n->data.args[2];
    PyObject *app = look_up(self->apps, (uint64_t)listener);
    if (app == NULL || (type & ~flags) != SOCK_STREAM || (protocol != 0 && protocol != IPPROTO_TCP)) {
        return unknown();
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
    note_birth(journal, cookie, (uint64_t)(tcp ? BORN_TCP : 0) | (uint64_t)family);
    int status = add_sock(self, new_sock(self, app, cookie, family, !tcp)) == NULL ? -1 : 0;
    if (status == 0 && ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add) < 0) {
        int error = errno;
        PyObject *key = PyLong_FromUnsignedLongLong(cookie);
        status = key == NULL ? -1 : PyDict_DelItem(self->sockets, key);
        Py_XDECREF(key);
        if (error != ENOENT) { /* EMFILE: the caller's limit, and its answer; ENOENT: it is gone */
            reply_value(listener, n->id, 0, error);
        }
    }
    close(fd);
    return status < 0 ? -1 : 1;
}

/* -- connect(2) */

struct __attribute__((packed)) route_key { /* as switch/flows.py makes it */
    int32_t listener, family;
    char raw[sizeof(struct sockaddr_in6)];
};

/* Whether the first of the calls that wait for the service does still wait: one whose caller has gone may be all that
 * is left of the listener. 1 also when none waits; 0; -1 with an exception set. */
static int first_waits(PyObject *module, PyObject *parked) {
    Py_ssize_t position = 0;
    PyObject *first;
    if (!PyDict_Next(parked, &position, &first, NULL)) {
        return 1;
    }
    uint64_t id;
    int result = -1;
    PyObject *call = PyObject_GetAttrString(first, "call");
    PyObject *number = call == NULL ? NULL : PyObject_GetAttrString(call, "id");
    PyObject *app = number == NULL ? NULL : PyObject_GetAttrString(call, "app");
    PyObject *notifier = app == NULL ? NULL : PyObject_GetAttrString(app, "listener");
    int listener = notifier == NULL ? -1 : as_fd(module, notifier);
    if (listener >= 0 && as_u64(number, &id) == 0) {
        result = is_valid(listener, id);
    }
    Py_XDECREF(notifier);
    Py_XDECREF(app);
    Py_XDECREF(number);
    Py_XDECREF(call);
    return result;
}

/* Python's part of what was done here: an event of `wait`. `more` is stolen, and may be NULL with an exception set. */
static int then(PyObject **event, PyObject *function, PyObject *first, PyObject *more) {
    if (function == NULL) {
        PyErr_SetString(PyExc_TypeError, "nobody is to be told");
    } else {
        *event = more != NULL ? PyTuple_Pack(3, function, first, more) : PyTuple_Pack(2, function, first);
    }
    Py_XDECREF(more);
    return *event == NULL ? -1 : 1;
}

/* How many connections of an app are held. -1 with an exception set. */
static long crowd_of(ReflexObject *self, PyObject *app) {
    PyObject *count = PyDict_GetItemWithError(self->crowd, app);
    return count != NULL ? PyLong_AsLong(count) : PyErr_Occurred() ? -1 : 0;
}

/* The other end of a connection to the lobby that was made just now under `own`; -1. What else is in the queue is of
 * callers that were given up, and closed. */
static int take_end(int lobby, const struct sockaddr_un *own, socklen_t own_size) {
    struct sockaddr_un peer;
    socklen_t size = sizeof peer;
    int end;
    while ((end = accept4(lobby, (struct sockaddr *)&peer, &size, 0)) >= 0) { /* flags: see accept_now */
        if (size == own_size && memcmp(&peer, own, size) == 0) {
            return end;
        }
        close(end);
        size = sizeof peer;
    }
    return -1;
}

/* Let it wait for its first bytes: an entry of `held`, [Fd, route, cookie, port, since, looks]. `end` is the entry's.
 * 0; -1 with an exception set or not. */
static int hold(PyObject *module, ReflexObject *self, int epoll, RouteObject *route, const SockObject *sock, int port,
                int end) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    PyObject *owned = fd_wrap(state_of(module)->fd_type, end);
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLET,
                                .data.u64 = (uint64_t)end | HELD};
    if (owned == NULL || epoll_ctl(epoll, EPOLL_CTL_ADD, end, &event) < 0) {
        Py_XDECREF(owned);
        return -1;
    }
    PyObject *entry = Py_BuildValue("[NOLidi]", owned, (PyObject *)route, sock->cookie, port,
                                    (double)now.tv_sec + (double)now.tv_nsec / 1e9, 0);
    PyObject *key = PyLong_FromLong(end), *count = PyLong_FromLong(crowd_of(self, route->app) + 1);
    int status = entry == NULL || key == NULL || count == NULL || PyDict_SetItem(self->held, key, entry) < 0 ||
                         PyDict_SetItem(self->crowd, route->app, count) < 0
                     ? -1
                     : 0;
    Py_XDECREF(entry);
    Py_XDECREF(key);
    Py_XDECREF(count);
    return status;
}

/* What has come of a connection that is held: (on_bytes, number, entry, bytes or -errno). */
PyObject *first_bytes(PyObject *module, ReflexObject *self, int fd) {
    PyObject *entry = look_up(self->held, (uint64_t)fd);
    if (entry == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    RouteObject *route = (RouteObject *)PyList_GetItem(entry, 1);
    if (route == NULL || self->on_bytes == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    PyObject *arguments[] = {PyLong_FromLong(fd), PyLong_FromLong(route->limit)};
    PyObject *data = arguments[0] == NULL || arguments[1] == NULL ? NULL : k_peek(module, arguments, 2);
    PyObject *event = data == NULL ? NULL : PyTuple_Pack(4, self->on_bytes, arguments[0], entry, data);
    Py_XDECREF(data);
    Py_XDECREF(arguments[0]);
    Py_XDECREF(arguments[1]);
    return event;
}

static void close_now(int *fd) {
    close_guarded(*fd);
    *fd = -1;
}

/* Connect a socket to one of a route's targets and reply. `fd`, our duplicate, is closed before that: when the app
 * closes its own, the socket must be closed. */
static int follow(PyObject *module, ReflexObject *self, int epoll, RouteObject *route, SockObject *sock, int *fd,
                  int listener, const struct seccomp_notif *n, PyObject **event) {
    if (route->lobby != NULL) {
        long crowd = crowd_of(self, route->app);
        if (crowd < 0 || crowd >= self->most_by_app || PyDict_Size(self->held) >= self->most_held) {
            return unknown();
        }
    }
    Py_ssize_t count = PyTuple_Size(route->targets);
    PyObject *target = PyTuple_GetItem(route->targets, count > 1 ? (Py_ssize_t)(route->used % (uint64_t)count) : 0);
    PyObject *tail = PyTuple_GetItem(target, 0), *path = PyTuple_GetItem(target, 1);
    PyObject *service = PyTuple_GetItem(target, 2);
    Py_ssize_t waiting = 0;
    if (route->lobby == NULL) {
        PyObject *parked = PyObject_GetAttrString(service, "parked");
        int waits = parked == NULL ? -1 : first_waits(module, parked);
        waiting = parked == NULL ? 0 : PyDict_Size(parked);
        Py_XDECREF(parked);
        if (waits <= 0) {
            return waits;
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
    route->used++;
    if (flags & O_NONBLOCK) {
        nudge(*fd);
    }
    close_now(fd);
    if (reply_value(listener, n->id, 0, flags & O_NONBLOCK ? EINPROGRESS : 0) < 0) {
        sock->phase = FINISHING; /* the call comes again, and is to succeed again */
    }
    if (waiting > 0) {
        return then(event, self->on_arrival, service, NULL);
    }
    if (end >= 0 && !self->ticking && self->on_hold != NULL) {
        self->ticking = 1;
        *event = PyTuple_Pack(1, self->on_hold);
        return *event == NULL ? -1 : 1;
    }
    return 1;
}

static int serve_connect(PyObject *module, ReflexObject *self, int epoll, int listener, const struct seccomp_notif *n,
                         PyObject **event) {
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
    status = follow(module, self, epoll, route, sock, &fd, listener, n, event);
    if (fd >= 0) {
        close_guarded(fd);
    }
    Py_DECREF((PyObject *)sock);
    Py_DECREF((PyObject *)route);
    return status;
}

/* -- accept(2) */

/* Whether connections of a service come by no other way than its Unix socket's queue: none was given back, no TCP port
 * leads to it, no bell rings. 1, 0, or -1 with an exception set. */
static int is_plain(PyObject *service) {
    static const struct {
        const char *name;
        int wanted;
    } attributes[] = {{"watched", 1}, {"rung", 0}, {"returned", 0}, {"doors", 0}};
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
        PyObject *value = PyObject_GetAttrString(service, attributes[i].name);
        int truth = value == NULL ? -1 : PyObject_IsTrue(value);
        Py_XDECREF(value);
        if (truth != attributes[i].wanted) {
            return truth < 0 ? -1 : 0;
        }
    }
    return 1;
}

static int serve_accept(PyObject *module, ReflexObject *self, int listener, const struct seccomp_notif *n,
                        PyObject **event) {
    int flags = n->data.nr == self->numbers[ACCEPT4] ? (int)n->data.args[3] : 0, fd;
    uint64_t cookie;
    if (flags & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) {
        return 0;
    }
    int status = fetch(module, self, n, &fd, &cookie);
    if (status <= 0) {
        return status;
    }
    SockObject *sock = find(self, listener, cookie);
    PyObject *service =
        sock != NULL && sock->phase == LISTENING ? look_up(self->services, (uint64_t)sock->service) : NULL;
    int plain = service == NULL ? unknown() : is_plain(service);
    if (plain <= 0) {
        close_soon(fd, 1);
        return plain;
    }
    PyObject *left;
    const uint64_t pointers[] = {n->data.args[1], n->data.args[2]};
    int held = fd, family = sock->family, number;
    do { /* who is not trusted is nobody's connection, and closed */
        number = accept_given(module, listener, n->id, (int)n->pid, fd, &held, pointers, family, flags, &left);
        if (number == INT_MIN && left == NULL) {
            status = -1;
        } else if (number == INT_MIN && PyLong_AsLong(PyTuple_GetItem(left, 2)) != 0) {
            /* Not to be lost: Python puts it back and rings, and then replies. */
            *event = Py_BuildValue("(OOOiK)", self->on_left, service, left, listener, (unsigned long long)n->id);
            status = *event == NULL ? -1 : 1;
            number = 0;
        } else if (number == -EAGAIN) {
            status = fcntl(fd, F_GETFL) & O_NONBLOCK ? 1 : 0; /* one that waits is Python's */
            if (status) {
                close_guarded(fd);
                held = -1;
                reply_value(listener, n->id, 0, EAGAIN);
            }
        } else if (number < 0 && number != INT_MIN) {
            reply_value(listener, n->id, 0, -number);
        }
        Py_XDECREF(left);
    } while (number == INT_MIN && status == 1);
    if (held >= 0) {
        close_soon(held, 1);
    }
    return status;
}

/* -- getsockname(2), getpeername(2) */

/* What a connected Unix socket's name tells. `own` is its file or name. */
struct ends {
    struct connection_name link;
    struct sockaddr_un own;
    socklen_t own_size; /* of the path or name alone */
    SockObject *parent; /* of an accepted one: its listener; borrowed */
};

/* 1; 0 where Python must look; -1 with an exception set. */
static int read_ends(ReflexObject *self, int fd, struct ends *ends) {
    socklen_t size = sizeof ends->own;
    ends->parent = NULL;
    if (getsockname(fd, (struct sockaddr *)&ends->own, &size) < 0 || ends->own.sun_family != AF_UNIX ||
        size <= offsetof(struct sockaddr_un, sun_path) || size > sizeof ends->own) {
        return 0;
    }
    if (read_name(&ends->own, size, &ends->link)) {
        return 1;
    }
    ends->own_size = (socklen_t)strnlen(ends->own.sun_path, size - offsetof(struct sockaddr_un, sun_path));
    ends->parent = (SockObject *)look_up_bytes(self->listening, ends->own.sun_path, ends->own_size);
    if (ends->parent == NULL) {
        return unknown();
    }
    struct sockaddr_un peer;
    size = sizeof peer;
    return getpeername(fd, (struct sockaddr *)&peer, &size) == 0 && read_name(&peer, size, &ends->link);
}

/* The local address of an accepted connection, as Python has found it before for this listener and destination: bytes,
 * borrowed; NULL when it has not, or with an exception set. The key is as switch/names.py makes it. */
static PyObject *own_name(ReflexObject *self, const struct ends *ends) {
    enum { SERVER = sizeof ends->link.server_ip + sizeof ends->link.server_size + sizeof ends->link.server_port };
    char key[sizeof ends->own.sun_path + SERVER];
    memcpy(key, ends->own.sun_path, ends->own_size);
    memcpy(key + ends->own_size, ends->link.server_ip, SERVER);
    return look_up_bytes(self->own_names, key, ends->own_size + SERVER);
}

static int is_up(const SockObject *sock) { return sock->phase == CONNECTED || sock->phase == FINISHING; }

/* Fill a value-result pair and reply. */
static int tell(int listener, const struct seccomp_notif *n, uint64_t address, uint64_t length_address,
                const void *data, socklen_t size) {
    int error = write_pair(listener, n->id, (int)n->pid, address, length_address, data, (int32_t)size);
    if (error != ENOENT) {
        reply_value(listener, n->id, 0, error);
    }
    return 1;
}

static int serve_name(PyObject *module, ReflexObject *self, int listener, int of_peer, const struct seccomp_notif *n) {
    int fd;
    uint64_t cookie;
    struct ends ends;
    int status = fetch(module, self, n, &fd, &cookie);
    if (status <= 0) {
        return status;
    }
    SockObject *sock = (SockObject *)look_up(self->sockets, cookie);
    if (sock == NULL ? PyErr_Occurred() != NULL : !sock->unix_file || !is_up(sock)) {
        close_soon(fd, 1);
        return unknown();
    }
    status = read_ends(self, fd, &ends);
    if (status <= 0) {
        close_soon(fd, 1);
        return status;
    }
    close_guarded(fd);
    union peer_address shown;
    const struct connection_name *link = &ends.link;
    if (ends.parent == NULL) { /* the client's end */
        if (sock == NULL || link->server_size != link->client_size ||
            (sock->family == AF_INET && link->server_size != 4)) {
            return 0; /* a vservice led from one family to the other: the name has what the server sees */
        }
        socklen_t size =
            of_peer ? shown_address(link->server_ip, link->server_size, link->server_port, sock->family, &shown)
                    : shown_address(link->client_ip, link->client_size, link->client_port, sock->family, &shown);
        return tell(listener, n, n->data.args[1], n->data.args[2], &shown, size);
    }
    if (of_peer) {
        socklen_t size =
            shown_address(link->client_ip, link->client_size, link->client_port, ends.parent->family, &shown);
        return tell(listener, n, n->data.args[1], n->data.args[2], &shown, size);
    }
    PyObject *known = own_name(self, &ends);
    char *data;
    Py_ssize_t size;
    if (known == NULL || as_bytes(known, &data, &size) < 0) {
        return unknown();
    }
    return tell(listener, n, n->data.args[1], n->data.args[2], data, (socklen_t)size);
}

/* -- getsockopt(2), setsockopt(2) */

/* A question about an option, as switch/options.py writes it down: what was set before (the dictionary itself, which
 * whoever remembers the question keeps alive), and what else the answer depends on. */
struct __attribute__((packed)) question {
    uint64_t options;
    int32_t family, state, level, name, value; /* setsockopt: the value; getsockopt: the room for it */
};

enum { UP = 1, BOUND = 2, HALF_CLOSED = 4 };

/* An accepted connection that nobody has asked Python about: its entry, made from its listener's. Borrowed; NULL where
 * it is none, or with an exception set. */
static SockObject *recall(ReflexObject *self, int listener, int fd, uint64_t cookie) {
    struct ends ends;
    PyObject *app = look_up(self->apps, (uint64_t)listener);
    if (app == NULL || self->succeeded || read_ends(self, fd, &ends) <= 0 || ends.parent == NULL) {
        return NULL;
    }
    struct sockaddr_un peer;
    socklen_t size = sizeof peer;
    SockObject *sock = new_sock(self, app, cookie, ends.parent->family, 1);
    if (sock == NULL || getpeername(fd, (struct sockaddr *)&peer, &size) < 0 ||
        size != offsetof(struct sockaddr_un, sun_path) + NAME_SIZE) {
        Py_XDECREF((PyObject *)sock);
        return NULL;
    }
    replace(&sock->options, ends.parent->options);
    sock->parent = Py_NewRef((PyObject *)ends.parent);
    sock->link = PyBytes_FromStringAndSize(peer.sun_path, NAME_SIZE);
    sock->phase = CONNECTED;
    sock->named = sock->accepted = 1;
    if (sock->link == NULL) {
        Py_DECREF((PyObject *)sock);
        return NULL;
    }
    return add_sock(self, sock);
}

/* The entry of the socket that an option is about: 1, or as above. `fd` is open only then. */
static int find_for_option(PyObject *module, ReflexObject *self, int listener, const struct seccomp_notif *n, int *fd,
                           SockObject **sock) {
    uint64_t cookie;
    int status = fetch(module, self, n, fd, &cookie);
    if (status <= 0) {
        return status;
    }
    *sock = (SockObject *)look_up(self->sockets, cookie);
    if (*sock == NULL && !PyErr_Occurred()) {
        *sock = recall(self, listener, *fd, cookie);
    }
    if (*sock == NULL || !(*sock)->unix_file || ((*sock)->phase != NEW && !is_up(*sock))) {
        close_soon(*fd, 1);
        return unknown();
    }
    return 1;
}

static struct question question_of(const SockObject *sock, const struct seccomp_notif *n, int value) {
    int bound = sock->bound != NULL && sock->bound != Py_None;
    return (struct question){.options = (uint64_t)(uintptr_t)sock->options,
                             .family = sock->family,
                             .state = (is_up(sock) ? UP : 0) | (bound ? BOUND : 0),
                             .level = (int)n->data.args[1],
                             .name = (int)n->data.args[2],
                             .value = value};
}

static int serve_set_option(PyObject *module, ReflexObject *self, int listener, const struct seccomp_notif *n,
                            PyObject **event) {
    int fd, value;
    SockObject *sock;
    if ((int)n->data.args[4] != sizeof value || PyDict_Size(self->steps) == 0) {
        return 0;
    }
    int status = find_for_option(module, self, listener, n, &fd, &sock);
    if (status <= 0) {
        return status;
    }
    close_guarded(fd);
    if (vm_copy((int)n->pid, n->data.args[3], &value, sizeof value, 0) || !is_valid(listener, n->id)) {
        return 0;
    }
    struct question question = question_of(sock, n, value);
    PyObject *step = look_up_bytes(self->steps, &question, sizeof question); /* (options before, options after) */
    if (step == NULL) {
        return unknown();
    }
    replace(&sock->options, PyTuple_GetItem(step, 1));
    reply_value(listener, n->id, 0, 0);
    return question.state & UP ? 1 : then(event, self->on_set, (PyObject *)sock, NULL);
}

/* SO_ORIGINAL_DST of a connection that was led here: where its client wanted to go. */
static int serve_original(ReflexObject *self, int fd, int listener, const struct seccomp_notif *n, int room) {
    struct ends ends;
    union peer_address shown;
    int family = (int)n->data.args[1] == IPPROTO_IPV6 ? AF_INET6 : AF_INET;
    int status = read_ends(self, fd, &ends);
    if (status <= 0 || ends.parent == NULL || ends.link.server_size != (family == AF_INET ? 4 : 16)) {
        return status < 0 ? -1 : 0;
    }
    PyObject *local = own_name(self, &ends);
    char *data;
    Py_ssize_t size;
    if (local == NULL || as_bytes(local, &data, &size) < 0) {
        return unknown();
    }
    socklen_t length =
        shown_address(ends.link.server_ip, ends.link.server_size, ends.link.server_port, ends.parent->family, &shown);
    if (length == (socklen_t)size && memcmp(&shown, data, length) == 0) {
        return 0; /* led nowhere */
    }
    length = shown_address(ends.link.server_ip, ends.link.server_size, ends.link.server_port, family, &shown);
    return room < (int)length ? 0 : tell(listener, n, n->data.args[3], n->data.args[4], &shown, length);
}

static int serve_get_option(PyObject *module, ReflexObject *self, int listener, const struct seccomp_notif *n) {
    int fd, room, level = (int)n->data.args[1], name = (int)n->data.args[2];
    SockObject *sock;
    if (vm_copy((int)n->pid, n->data.args[4], &room, sizeof room, 0) || room < 0 || !is_valid(listener, n->id)) {
        return 0;
    }
    int status = find_for_option(module, self, listener, n, &fd, &sock);
    if (status <= 0) {
        return status;
    }
    if (name == SO_ORIGINAL && level != SOL_SOCKET) {
        status = sock->accepted ? serve_original(self, fd, listener, n, room) : 0;
        close_guarded(fd);
        return status;
    }
    struct question question = question_of(sock, n, room);
    if (level == IPPROTO_TCP && name == TCP_INFO && question.state & UP && is_half_closed(fd)) {
        question.state |= HALF_CLOSED;
    }
    close_guarded(fd);
    PyObject *answer = look_up_bytes(self->answers, &question, sizeof question); /* (options, value) */
    char *data;
    Py_ssize_t size;
    if (answer == NULL || as_bytes(PyTuple_GetItem(answer, 1), &data, &size) < 0) {
        return unknown();
    }
    uint32_t length = (uint32_t)size;
    int fault = vm_copy((int)n->pid, n->data.args[3], data, (size_t)size, 1) ||
                vm_copy((int)n->pid, n->data.args[4], &length, sizeof length, 1);
    reply_value(listener, n->id, 0, fault ? EFAULT : 0);
    return 1;
}

/* -- sendto(2), sendmsg(2) */

/* struct msghdr, as far as it names an address: recvmsg(2). */
struct message_name {
    uint64_t address;
    uint32_t length;
};

/* A UDP socket sends to where it sends all the time: `steady` has the sockaddr that needs no decision, by the socket's
 * cookie, and the kernel makes the call (switch/udp.py tells why that is safe). */
static int serve_steady(PyObject *module, ReflexObject *self, int listener, const struct seccomp_notif *n) {
    int fd, is_message = n->data.nr == self->numbers[SENDMSG];
    uint64_t cookie;
    if (PyDict_Size(self->steady) == 0 || n->data.args[is_message ? 2 : 3] & MSG_FASTOPEN) {
        return 0; /* nothing that the kernel may do: switch/send.py */
    }
    int status = fetch(module, self, n, &fd, &cookie);
    if (status <= 0) {
        return status;
    }
    close_soon(fd, 1);
    PyObject *expected = look_up(self->steady, cookie);
    char *wanted, given[sizeof(struct sockaddr_storage)];
    Py_ssize_t length;
    if (expected == NULL || as_bytes(expected, &wanted, &length) < 0) {
        return unknown();
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

/* -- all of them */

/* `event` is what Python has to do after a call that was answered: (on_arrival, service), there is a connection for
 * whoever waits in accept(2); (on_left, service, (Fd, peer, errno)), one could not be handed over; (on_hold,), one is
 * held, and nobody looks at the time; (on_set, socket), an option that still matters was set: of a connection it is
 * only ever read back. */
int reflex(PyObject *module, ReflexObject *self, int epoll, int listener, int tcp, const struct seccomp_notif *n,
           Py_buffer *journal, PyObject **event) {
    int call = 0;
    while (call < CALLS && self->numbers[call] != n->data.nr) {
        call++;
    }
    int status = 0;
    switch (call) {
    case SOCKET:
        status = serve_socket(self, listener, tcp, n, journal);
        break;
    case CONNECT:
        status = serve_connect(module, self, epoll, listener, n, event);
        break;
    case ACCEPT:
    case ACCEPT4:
        status = serve_accept(module, self, listener, n, event);
        break;
    case GETSOCKNAME:
    case GETPEERNAME:
        status = serve_name(module, self, listener, call == GETPEERNAME, n);
        break;
    case GETSOCKOPT:
        status = serve_get_option(module, self, listener, n);
        break;
    case SETSOCKOPT:
        status = serve_set_option(module, self, listener, n, event);
        break;
    case SENDTO:
    case SENDMSG:
        status = serve_steady(module, self, listener, n);
        break;
    default:
        break;
    }
    if (status > 0) {
        self->served[call]++;
    }
    return status;
}
