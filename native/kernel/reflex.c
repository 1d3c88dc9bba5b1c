/* What needs no decision is answered in the step that receives it: what was decided before, what a socket's own name
 * says, what was asked before. Whatever is not as expected is left to Python, which finds everything untouched.
 *
 * Each of the functions below returns 1 when the call was answered, 0 for a call that Python must judge, -1 with an
 * exception set. They decide on copies that were read once, and check afterwards that the caller still waits:
 * seccomp_unotify(2). */
#include "reflex.h"

int reply_value(int listener, uint64_t id, int64_t value, int error) {
    struct seccomp_notif_resp response = {.id = id, .val = value, .error = -error};
    return ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

static PyObject *name_of_attribute(enum attribute which) {
#define AS_STRING(name) #name,
    static const char *const names[] = {ATTRIBUTES(AS_STRING)};
#undef AS_STRING
    static PyObject *made[sizeof names / sizeof *names];
    if (made[which] == NULL) {
        made[which] = PyUnicode_InternFromString(names[which]);
    }
    return made[which];
}

/* As PyObject_GetAttrString. */
PyObject *get_attribute(PyObject *object, enum attribute which) {
    PyObject *name = name_of_attribute(which);
    return name == NULL ? NULL : PyObject_GetAttr(object, name);
}

int set_attribute(PyObject *object, enum attribute which, PyObject *value) {
    PyObject *name = name_of_attribute(which);
    return name == NULL ? -1 : PyObject_SetAttr(object, name, value);
}

/* The value of a number in a dictionary, borrowed; NULL when there is none, or with an exception set. */
PyObject *look_up(PyObject *dictionary, uint64_t number) {
    PyObject *key = PyLong_FromUnsignedLongLong(number);
    PyObject *value = key == NULL ? NULL : PyDict_GetItemWithError(dictionary, key);
    Py_XDECREF(key);
    return value;
}

/* The same of some bytes. */
PyObject *look_up_bytes(PyObject *dictionary, const void *data, size_t size) {
    PyObject *key = PyBytes_FromStringAndSize(data, (Py_ssize_t)size);
    PyObject *value = key == NULL ? NULL : PyDict_GetItemWithError(dictionary, key);
    Py_XDECREF(key);
    return value;
}

void replace_with(PyObject **place, PyObject *stolen) {
    PyObject *old = *place;
    *place = stolen;
    Py_XDECREF(old);
}

void replace(PyObject **place, PyObject *value) { replace_with(place, Py_NewRef(value)); }

int unknown(void) { return PyErr_Occurred() ? -1 : 0; }

/* A duplicate of the descriptor in the first argument, and its socket's cookie. 1, or as above. */
int fetch(PyObject *module, ReflexObject *self, const struct seccomp_notif *n, int *fd, uint64_t *cookie) {
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
SockObject *find(ReflexObject *self, int listener, uint64_t cookie) {
    SockObject *sock = (SockObject *)look_up(self->sockets, cookie);
    return sock != NULL && sock->app == look_up(self->apps, (uint64_t)listener) ? sock : NULL;
}

/* Python's part of what was done here: an event of `wait`. `more` is stolen, and may be NULL with an exception set. */
int then(PyObject **event, PyObject *function, PyObject *first, PyObject *more) {
    if (function == NULL) {
        PyErr_SetString(PyExc_TypeError, "nobody is to be told");
    } else {
        *event = more != NULL ? PyTuple_Pack(3, function, first, more) : PyTuple_Pack(2, function, first);
    }
    Py_XDECREF(more);
    return *event == NULL ? -1 : 1;
}

/* -- socket(2) */

SockObject *new_sock(ReflexObject *self, PyObject *app, uint64_t cookie, int family, int unix_file) {
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
SockObject *add_sock(ReflexObject *self, SockObject *sock) {
    PyObject *key = sock == NULL ? NULL : PyLong_FromLongLong(sock->cookie);
    int status = key == NULL ? -1 : PyDict_SetItem(self->sockets, key, (PyObject *)sock);
    Py_XDECREF(key);
    Py_XDECREF((PyObject *)sock);
    return status < 0 ? NULL : sock;
}

/* The entry of an accepted connection: it has its client's name, and its listener's options. Borrowed; NULL with an
 * exception set. */
SockObject *add_accepted(ReflexObject *self, PyObject *app, SockObject *listener, uint64_t cookie,
                         const struct sockaddr_un *peer) {
    SockObject *sock = new_sock(self, app, cookie, listener->family, 1);
    PyObject *link = sock == NULL ? NULL : PyBytes_FromStringAndSize(peer->sun_path, NAME_SIZE);
    if (link == NULL) {
        Py_XDECREF((PyObject *)sock);
        return NULL;
    }
    replace(&sock->options, listener->options);
    sock->parent = Py_NewRef((PyObject *)listener);
    sock->link = link;
    sock->phase = CONNECTED;
    sock->named = sock->accepted = 1;
    return add_sock(self, sock);
}

/* Take it out again. */
int forget_sock(ReflexObject *self, uint64_t cookie) {
    PyObject *key = PyLong_FromUnsignedLongLong(cookie);
    int status = key == NULL ? -1 : PyDict_DelItem(self->sockets, key);
    Py_XDECREF(key);
    return status;
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
        status = forget_sock(self, cookie);
        if (error != ENOENT) { /* EMFILE: the caller's limit, and its answer; ENOENT: it is gone */
            reply_value(listener, n->id, 0, error);
        }
    }
    close(fd);
    return status < 0 ? -1 : 1;
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
 * whoever waits in accept(2); (on_left, service, (Fd, peer, errno), ...), one could not be handed over; (on_wait,
 * service, Fd, flags, notification), nothing is there to accept; (on_hold,), a connection is held, and nobody looks at
 * the time; (on_touch,), an option that still matters was set, and nobody notes these: of a connection it is only ever
 * read back. */
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
        status = serve_connect(module, self, epoll, listener, n, journal, event);
        break;
    case ACCEPT:
    case ACCEPT4:
        status = serve_accept(module, self, listener, n, journal, event);
        break;
    case GETSOCKNAME:
    case GETPEERNAME:
        status = serve_name(module, self, listener, call == GETPEERNAME, n);
        break;
    case GETSOCKOPT:
        status = serve_get_option(module, self, listener, n);
        break;
    case SETSOCKOPT:
        status = serve_set_option(module, self, listener, n, journal, event);
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
