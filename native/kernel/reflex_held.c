/* Connections that are held for their first bytes. */
#include "reflex.h"

/* How many connections of an app are held. -1 with an exception set. */
static long crowd_of(ReflexObject *self, PyObject *app) {
    PyObject *count = PyDict_GetItemWithError(self->crowd, app);
    return count != NULL ? PyLong_AsLong(count) : PyErr_Occurred() ? -1 : 0;
}

/* Whether one more may be held; 0 also with an exception set. */
int has_room(ReflexObject *self, RouteObject *route) {
    long crowd = crowd_of(self, route->app);
    return crowd >= 0 && crowd < self->most_by_app && PyDict_Size(self->held) < self->most_held;
}

/* The other end of a connection to the lobby that was made just now under `own`; -1. What else is in the queue is of
 * callers that were given up, and closed. */
int take_end(int lobby, const struct sockaddr_un *own, socklen_t own_size) {
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
int hold(PyObject *module, ReflexObject *self, int epoll, RouteObject *route, const SockObject *sock, int port,
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

/* It is held no longer: `number` is its descriptor's. 0; -1 with an exception set. */
static int let_go(ReflexObject *self, int number, PyObject *app) {
    PyObject *key = PyLong_FromLong(number), *count = PyLong_FromLong(crowd_of(self, app) - 1);
    int status = -1;
    if (key != NULL && count != NULL && PyDict_DelItem(self->held, key) == 0) {
        status = PyLong_AsLong(count) > 0 ? PyDict_SetItem(self->crowd, app, count) : PyDict_DelItem(self->crowd, app);
    }
    Py_XDECREF(key);
    Py_XDECREF(count);
    return status;
}

/* Where connections with such first bytes were led before: a borrowed route; NULL, or with an exception set. */
static RouteObject *decided(RouteObject *route, const struct request *request) {
    Py_ssize_t count = PyTuple_Size(route->names);
    PyObject *key = PyTuple_New(count);
    for (Py_ssize_t i = 0; key != NULL && i < count; i++) {
        Py_ssize_t size;
        const char *name = PyUnicode_AsUTF8AndSize(PyTuple_GetItem(route->names, i), &size);
        PyObject *value = name == NULL ? NULL : request_attribute(request, name, size);
        if (value == NULL && PyErr_Occurred()) {
            Py_DECREF(key);
            return NULL;
        }
        PyTuple_SetItem(key, i, value != NULL ? value : Py_NewRef(Py_None)); /* steals */
    }
    PyObject *known = key == NULL ? NULL : PyDict_GetItemWithError(route->decided, key);
    Py_XDECREF(key);
    return known == Py_None ? NULL : (RouteObject *)known;
}

/* The entry of what the service is about to accept; borrowed, NULL with an exception set. */
static SockObject *dress(ReflexObject *self, PyObject *service, uint64_t cookie, const struct sockaddr_un *peer) {
    PyObject *app = get_attribute(service, ATTRIBUTE_app), *listener = get_attribute(service, ATTRIBUTE_socket);
    SockObject *sock =
        app == NULL || listener == NULL ? NULL : add_accepted(self, app, (SockObject *)listener, cookie, peer);
    Py_XDECREF(app);
    Py_XDECREF(listener);
    return sock;
}

/* A record in the journal of who serves a client: its name does not say it. The number; 0 when there is none left. */
static int note_led(ReflexObject *self, Py_buffer *journal, struct led led) {
    if (journal->len < (Py_ssize_t)(LEDS_AT + LEDS * sizeof led)) {
        return 0;
    }
    int number = self->free_leds > 0 ? self->free_led[--self->free_leds] : self->next_led < LEDS ? self->next_led++ : 0;
    if (number > 0) {
        ((struct led *)(void *)((char *)journal->buf + LEDS_AT))[number] = led;
    }
    return number;
}

static void forget_led(ReflexObject *self, Py_buffer *journal, int number) {
    ((struct led *)(void *)((char *)journal->buf + LEDS_AT))[number] = (struct led){0};
    self->free_led[self->free_leds++] = number;
}

/* Its descriptor is closed; the entry owns nothing any more. */
void close_entry(PyObject *entry) {
    FdObject *owned = (FdObject *)PyList_GetItem(entry, 0);
    close_guarded(owned->fd);
    owned->fd = -1;
}

/* The client's name: its socket's entry has it, if it is still there. 0, `size` 0 for nobody's; -1 with an exception
 * set. */
static int who_connects(ReflexObject *self, PyObject *entry, int end, struct sockaddr_un *peer, socklen_t *size) {
    SockObject *client = (SockObject *)look_up(self->sockets, PyLong_AsUnsignedLongLong(PyList_GetItem(entry, 2)));
    if (PyErr_Occurred()) {
        return -1;
    }
    if (client != NULL && client->link != NULL && PyBytes_Check(client->link)) {
        return unix_address(peer, PyBytes_AsString(client->link), PyBytes_Size(client->link), size);
    }
    *size = sizeof *peer;
    *size = getpeername(end, (struct sockaddr *)peer, size) < 0 ? 0 : *size;
    return 0;
}

/* Give a connection that was held (its entry, which is to be closed then) to a call of accept(2). 1; 0 where that
 * cannot be, and nothing was touched; -1 with an exception set; REFUSED: the call could not take it, and was told so.
 */
int give(ReflexObject *self, PyObject *service, PyObject *entry, const struct waiter *waiter, Py_buffer *journal) {
    struct sockaddr_un peer;
    socklen_t size;
    struct connection_name name;
    uint64_t cookie;
    socklen_t length = sizeof cookie;
    int end = ((FdObject *)PyList_GetItem(entry, 0))->fd;
    if (who_connects(self, entry, end, &peer, &size) < 0) {
        return -1;
    }
    if (!read_name(&peer, size, &name) || getsockopt(end, SOL_SOCKET, SO_COOKIE, &cookie, &length) < 0) {
        return 0;
    }
    SockObject *sock = dress(self, service, cookie, &peer); /* known before the app can use it */
    if (sock == NULL) {
        return -1;
    }
    struct led led = {PyLong_AsUnsignedLongLong(PyList_GetItem(entry, 2)), cookie,
                      (uint64_t)((SockObject *)sock->parent)->service};
    sock->led = note_led(self, journal, led);
    union peer_address client;
    length = shown_address(name.client_ip, name.client_size, name.client_port, sock->family, &client);
    int error = waiter->pointers[0] == 0 ? 0
                                         : write_pair(waiter->listener, waiter->id, waiter->tid, waiter->pointers[0],
                                                      waiter->pointers[1], &client, (int32_t)length);
    struct seccomp_notif_addfd add = {.id = waiter->id,
                                      .srcfd = (uint32_t)end,
                                      .newfd_flags = waiter->flags & SOCK_CLOEXEC ? O_CLOEXEC : 0,
                                      .flags = SECCOMP_ADDFD_FLAG_SEND};
    if (!error) {
        inherit(*waiter->listening, end);
        if (waiter->flags & SOCK_NONBLOCK) {
            fcntl(end, F_SETFL, O_RDWR | O_NONBLOCK);
        }
        close_guarded(*waiter->listening); /* before the reply: see accept_given */
        *waiter->listening = -1;
        int twin = sock->led > 0 ? -1 : fcntl(end, F_DUPFD, 0); /* see k_give: the record says the same */
        error = ioctl(waiter->listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add) < 0 ? errno : 0;
        if (error) {
            fcntl(end, F_SETFL, O_RDWR);
        } else if (twin >= 0) {
            fcntl(end, F_SETFD, FD_CLOEXEC);
        }
        if (twin >= 0) {
            close(twin); /* not the last one */
        }
    }
    if (!error) {
        return 1;
    }
    if (sock->led > 0) {
        forget_led(self, journal, sock->led);
    }
    if (error != ENOENT) {
        reply_value(waiter->listener, waiter->id, 0, error);
    }
    return forget_sock(self, cookie) < 0 ? -1 : REFUSED;
}

/* What the client's socket tells of it later: who serves it, and the request's head, which is read when somebody asks.
 * 0; -1 with an exception set. */
static int tell_client(ReflexObject *self, long long cookie, PyObject *service, struct text head) {
    PyObject *sock = look_up(self->sockets, (uint64_t)cookie);
    if (sock == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    PyObject *app = get_attribute(service, ATTRIBUTE_app), *data = PyBytes_FromStringAndSize(head.start, head.size);
    PyObject *id = app == NULL ? NULL : get_attribute(app, ATTRIBUTE_id);
    int status = id == NULL || data == NULL || set_attribute(sock, ATTRIBUTE_peer_app, id) < 0
                     ? -1
                     : set_attribute(sock, ATTRIBUTE_found, data);
    Py_XDECREF(data);
    Py_XDECREF(id);
    Py_XDECREF(app);
    return status;
}

/* What is Python's to look at: (on_bytes, number, entry, bytes or -errno), or (on_refused, parked, number, entry, bytes
 * or -errno). */
static PyObject *leave_bytes(PyObject *module, ReflexObject *self, PyObject *refused, int fd, PyObject *entry) {
    RouteObject *route = (RouteObject *)PyList_GetItem(entry, 1);
    PyObject *arguments[] = {PyLong_FromLong(fd), PyLong_FromLong(route->limit)};
    PyObject *data = arguments[0] == NULL || arguments[1] == NULL ? NULL : k_peek(module, arguments, 2);
    PyObject *event = NULL;
    if (data != NULL) {
        event = refused == NULL ? PyTuple_Pack(4, self->on_bytes, arguments[0], entry, data)
                                : PyTuple_Pack(5, self->on_refused, refused, arguments[0], entry, data);
    }
    Py_XDECREF(data);
    Py_XDECREF(arguments[0]);
    Py_XDECREF(arguments[1]);
    return event;
}

/* Lead a held connection where others with such first bytes were led: to a call that waits, or into the queue. 1; 0
 * when Python must look; -1 with an exception set. Where the call that waited could not take it there is an event. */
static int lead(PyObject *module, ReflexObject *self, int epoll, int fd, PyObject *entry, RouteObject *choice,
                struct text head, Py_buffer *journal, PyObject **event) {
    Py_ssize_t index = choose(self, choice);
    PyObject *service = service_of(choice, index), *app = ((RouteObject *)PyList_GetItem(entry, 1))->app;
    struct waiter waiter = {.parked = NULL};
    int status = is_plain(service);
    status = status > 0 ? find_waiter(module, service, 0, &waiter) : status; /* `give` is told if it waits no more */
    if (status > 0 && waiter.parked == NULL) {
        status = queue(self, service, entry);
    } else if (status > 0) {
        status = can_take(&waiter, service) ? give(self, service, entry, &waiter, journal) : 0;
    }
    if (status == REFUSED) {
        *event = leave_bytes(module, self, (PyObject *)waiter.parked, fd, entry);
        status = *event == NULL ? -1 : 1;
    } else if (status > 0) {
        epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL); /* while it is open here: the file lives on */
        if (waiter.parked != NULL) {
            close_entry(entry);
        }
        choice->counts[index]++;
        self->led++;
        status = let_go(self, fd, app) < 0 || (waiter.parked != NULL && was_served(service, &waiter, journal) < 0) ||
                         tell_client(self, PyLong_AsLongLong(PyList_GetItem(entry, 2)), service, head) < 0
                     ? -1
                     : 1;
    }
    leave_waiter(&waiter);
    return status;
}

/* What has come of a connection that is held. NULL with an exception set; None when it was led where it belongs; or an
 * event: see leave_bytes. */
PyObject *first_bytes(PyObject *module, ReflexObject *self, int epoll, int fd, Py_buffer *journal) {
    static char seen[1 << 14]; /* the GIL is held throughout; what is longer is Python's */
    PyObject *entry = look_up(self->held, (uint64_t)fd), *event = NULL;
    if (entry == NULL || self->on_bytes == NULL) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    RouteObject *route = (RouteObject *)PyList_GetItem(entry, 1), *choice = NULL;
    struct request request;
    if (PyDict_Size(route->decided) > 0) {
        size_t limit = route->limit < (int)sizeof seen ? (size_t)route->limit : sizeof seen;
        ssize_t got = recv(fd, seen, limit, MSG_PEEK | MSG_DONTWAIT);
        choice = got > 0 && read_request(seen, got, &request) ? decided(route, &request) : NULL;
    }
    Py_INCREF(entry);
    int led = choice == NULL ? unknown() : lead(module, self, epoll, fd, entry, choice, request.head, journal, &event);
    if (led == 0) {
        event = leave_bytes(module, self, NULL, fd, entry);
    } else if (led > 0 && event == NULL) {
        event = Py_NewRef(Py_None);
    }
    Py_DECREF(entry);
    return event;
}
