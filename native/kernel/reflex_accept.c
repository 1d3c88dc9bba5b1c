/* accept(2) where connections come by no other way than the queue of a Unix socket. */
#include "reflex.h"

enum { SLOT = 10 * sizeof(uint64_t) }; /* of the journal: switch/journal.py */

/* Whether connections of a service come by no other way than its Unix socket's queue: none was given back, no TCP port
 * leads to it, no bell rings. 1, 0, or -1 with an exception set. */
int is_plain(PyObject *service) {
    static const struct {
        enum attribute name;
        int wanted;
    } attributes[] = {{ATTRIBUTE_watched, 1}, {ATTRIBUTE_rung, 0}, {ATTRIBUTE_returned, 0}, {ATTRIBUTE_doors, 0}};
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++) {
        PyObject *value = get_attribute(service, attributes[i].name);
        int truth = value == NULL ? -1 : PyObject_IsTrue(value);
        Py_XDECREF(value);
        if (truth != attributes[i].wanted) {
            return truth < 0 ? -1 : 0;
        }
    }
    return 1;
}

static int number_of(PyObject *notification, Py_ssize_t index, uint64_t *value) {
    PyObject *number = PyTuple_GetItem(notification, index);
    return number == NULL ? -1 : as_u64(number, value);
}

/* What there is to know of a parked call: (fd, id, tid, nr, six arguments), and the listening socket. 0; -1 with an
 * exception set. */
static int read_waiter(PyObject *module, PyObject *parked, struct waiter *waiter) {
    ParkedObject *known = (ParkedObject *)parked;
    if (!PyObject_TypeCheck(parked, state_of(module)->parked_type) || Py_TYPE(known->fd) != state_of(module)->fd_type) {
        PyErr_SetString(PyExc_TypeError, "not a call that waits");
        return -1;
    }
    PyObject *notification = get_attribute(known->call, ATTRIBUTE_notification);
    uint64_t listener, tid;
    int status = -1;
    if (notification != NULL && number_of(notification, 0, &listener) == 0 &&
        number_of(notification, 1, &waiter->id) == 0 && number_of(notification, 2, &tid) == 0 &&
        number_of(notification, 5, &waiter->pointers[0]) == 0 &&
        number_of(notification, 6, &waiter->pointers[1]) == 0) {
        waiter->parked = (ParkedObject *)Py_NewRef(parked);
        waiter->listening = &((FdObject *)known->fd)->fd;
        waiter->flags = known->flags;
        waiter->listener = (int)listener;
        waiter->tid = (int)tid;
        status = 0;
    }
    Py_XDECREF(notification);
    return status;
}

/* The first of the calls that wait for a connection of the service. 1 (also where nobody waits: no `parked`); with
 * `check`, 0 when it does not wait any more, and may be all that is left of the listener; -1 with an exception set. */
int find_waiter(PyObject *module, PyObject *service, int check, struct waiter *waiter) {
    Py_ssize_t position = 0;
    PyObject *first = NULL, *queue = get_attribute(service, ATTRIBUTE_parked);
    waiter->parked = NULL;
    int status = queue == NULL ? -1 : 1;
    if (status > 0 && PyDict_Next(queue, &position, &first, NULL)) {
        status = read_waiter(module, first, waiter) < 0 ? -1 : !check || is_valid(waiter->listener, waiter->id);
    }
    Py_XDECREF(queue);
    return status;
}

void leave_waiter(struct waiter *waiter) { Py_CLEAR(waiter->parked); }

/* Whether the call may be given a connection without Python: it waits for the service alone, and without an end. */
int can_take(const struct waiter *waiter, PyObject *service) {
    return waiter->parked->service == service && *waiter->listening >= 0;
}

/* The call has its connection, and waits no longer. Its entry stays for its thread's next call. 0; -1 with an exception
 * set. */
int was_served(PyObject *service, struct waiter *waiter, Py_buffer *journal) {
    ParkedObject *parked = waiter->parked;
    PyObject *queue = get_attribute(service, ATTRIBUTE_parked);
    int status = queue == NULL ? -1 : PyDict_DelItem(queue, (PyObject *)parked);
    Py_XDECREF(queue);
    parked->done = 1;
    if (parked->slot > 0 && (Py_ssize_t)(parked->slot + 1) * SLOT <= journal->len) {
        memset((char *)journal->buf + (Py_ssize_t)parked->slot * SLOT, 0, SLOT);
    }
    return status;
}

/* There is a connection for a waiting call in the service's queue. What Python has to do where the call did not get it:
 * (on_arrival, service), or (on_left, service, (Fd, peer, errno), -1, 0) for one that could not be handed over. */
int wake_waiter(PyObject *module, ReflexObject *self, PyObject *service, struct waiter *waiter, Py_buffer *journal,
                PyObject **event) {
    int plain = is_plain(service), family;
    if (plain < 0) {
        return -1;
    }
    if (plain == 0 || !can_take(waiter, service)) {
        return then(event, self->on_arrival, service, NULL);
    }
    PyObject *left, *number = get_attribute(service, ATTRIBUTE_family);
    if (number == NULL || as_int(number, &family) < 0) {
        Py_XDECREF(number);
        return -1;
    }
    Py_DECREF(number);
    int given = accept_given(module, waiter->listener, waiter->id, waiter->tid, *waiter->listening, waiter->listening,
                             waiter->pointers, family, waiter->flags, &left);
    if (given >= 0) {
        return was_served(service, waiter, journal) < 0 ? -1 : 1;
    }
    if (left == NULL) {
        return given == INT_MIN ? -1 : then(event, self->on_arrival, service, NULL);
    }
    if (PyLong_AsLong(PyTuple_GetItem(left, 2)) == 0) { /* nobody's: closed with its Fd; or it stands for another */
        PyObject *entry = claim(self, service, PyTuple_GetItem(left, 1));
        Py_DECREF(left);
        if (entry != NULL) {
            return then(event, self->on_unclaimed, service, entry);
        }
        return PyErr_Occurred() ? -1 : then(event, self->on_arrival, service, NULL);
    }
    *event = Py_BuildValue("(OONii)", self->on_left, service, left, -1, 0);
    return *event == NULL ? -1 : 1;
}

static int set_stolen(PyObject *object, enum attribute which, PyObject *value) {
    int status = value == NULL ? -1 : set_attribute(object, which, value);
    Py_XDECREF(value);
    return status;
}

/* Write a call into its slot of the journal. The id, by which it is found, comes last: whoever reads this after we were
 * killed finds all of it or nothing. */
static void enter_slot(uint64_t *slot, PyObject *notification) {
    enum { ID = 1, FIELDS = 10 };
    __atomic_store_n(&slot[ID], 0, __ATOMIC_RELEASE);
    for (Py_ssize_t i = 0; i < FIELDS; i++) {
        if (i != ID) {
            slot[i] = PyLong_AsUnsignedLongLong(PyTuple_GetItem(notification, i));
        }
    }
    __atomic_store_n(&slot[ID], PyLong_AsUnsignedLongLong(PyTuple_GetItem(notification, ID)), __ATOMIC_RELEASE);
}

/* A thread waits once more as it did before, with the entry that it had: there is nothing to decide. `owned` and
 * `notification` are those of the new call. 0; -1 with an exception set. */
static int park_again(ParkedObject *parked, PyObject *owned, PyObject *notification, int flags, uint64_t id,
                      Py_buffer *journal) {
    PyObject *queue = get_attribute(parked->service, ATTRIBUTE_parked);
    int there = queue == NULL ? -1 : PyDict_Contains(queue, (PyObject *)parked), status = there < 0 ? -1 : 0;
    if (there > 0) { /* a signal has ended that wait; it goes behind those who waited meanwhile */
        status = PyDict_DelItem(queue, (PyObject *)parked);
    }
    if (status == 0 && set_stolen(parked->call, ATTRIBUTE_id, PyLong_FromUnsignedLongLong(id)) == 0 &&
        set_stolen(parked->call, ATTRIBUTE_args, PyTuple_GetSlice(notification, 4, 10)) == 0 &&
        set_attribute(parked->call, ATTRIBUTE_notification, notification) == 0) {
        replace(&parked->fd, owned);
        parked->flags = flags;
        parked->done = 0;
        status = PyDict_SetItem(queue, (PyObject *)parked, Py_None);
    } else {
        status = -1;
    }
    Py_XDECREF(queue);
    if (status == 0 && parked->slot > 0 && (Py_ssize_t)(parked->slot + 1) * SLOT <= journal->len) {
        enter_slot((uint64_t *)(void *)((char *)journal->buf + (Py_ssize_t)parked->slot * SLOT), notification);
    }
    return status;
}

/* Park a call that finds nothing, with its thread's entry or by Python: (on_wait, service, Fd, flags, notification).
 * `fd` becomes the entry's. */
static int park(PyObject *module, ReflexObject *self, PyObject *service, int fd, int flags, int listener,
                const struct seccomp_notif *n, Py_buffer *journal, PyObject **event) {
    ParkedObject *known = (ParkedObject *)look_up(self->parked, n->pid);
    PyObject *owned = fd_wrap(state_of(module)->fd_type, fd), *notification = tuple_of_call(listener, n);
    int status = -1;
    if (owned != NULL && notification != NULL && !PyErr_Occurred()) {
        ((FdObject *)owned)->foreign = 1;
        if (known != NULL && known->service == service && fd < self->first_reserved) {
            status = park_again(known, owned, notification, flags, n->id, journal) < 0 ? -1 : 1;
        } else {
            *event = Py_BuildValue("(OOOiO)", self->on_wait, service, owned, flags, notification);
            status = *event == NULL ? -1 : 1;
        }
    }
    Py_XDECREF(owned);
    Py_XDECREF(notification);
    return status;
}

/* Whether the listener waits without an end: O_NONBLOCK, SO_RCVTIMEO. */
static int waits_for_ever(int fd) {
    struct timeval limit = {0};
    socklen_t size = sizeof limit;
    return getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, &size) == 0 && limit.tv_sec == 0 && limit.tv_usec == 0;
}

enum { NOBODY = 2, NOTHING };

/* Give the caller the next connection in the queue. 1; NOTHING is there; NOBODY, that was no app's; -1 with an
 * exception set. Where one could not be handed over, it is Python's: on_left, on_unclaimed. */
static int take_next(PyObject *module, ReflexObject *self, PyObject *service, int family, struct waiter *caller,
                     Py_buffer *journal, PyObject **event) {
    PyObject *left;
    int number = accept_given(module, caller->listener, caller->id, caller->tid, *caller->listening, caller->listening,
                              caller->pointers, family, caller->flags, &left);
    if (number != INT_MIN) {
        if (number < 0 && number != -EAGAIN) {
            reply_value(caller->listener, caller->id, 0, -number);
        }
        return number == -EAGAIN ? NOTHING : 1;
    }
    if (left == NULL) {
        return -1;
    }
    if (PyLong_AsLong(PyTuple_GetItem(left, 2)) !=
        0) { /* not to be lost: Python puts it back and rings, and then replies */
        *event =
            Py_BuildValue("(OONiK)", self->on_left, service, left, caller->listener, (unsigned long long)caller->id);
        return *event == NULL ? -1 : 1;
    }
    PyObject *entry = claim(self, service, PyTuple_GetItem(left, 1));
    Py_DECREF(left);
    if (entry == NULL) {
        return PyErr_Occurred() ? -1 : NOBODY; /* closed: not by us, or rung for nothing */
    }
    int given = give(self, service, entry, caller, journal);
    if (given == REFUSED) {
        return then(event, self->on_unclaimed, service, entry);
    }
    if (given > 0) {
        close_entry(entry);
    }
    Py_DECREF(entry);
    return given == 0 ? NOBODY : given;
}

int serve_accept(PyObject *module, ReflexObject *self, int listener, const struct seccomp_notif *n, Py_buffer *journal,
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
    struct waiter caller = {.listener = listener,
                            .tid = (int)n->pid,
                            .flags = flags,
                            .id = n->id,
                            .pointers = {n->data.args[1], n->data.args[2]},
                            .listening = &fd};
    do {
        status = take_next(module, self, service, sock->family, &caller, journal, event);
    } while (status == NOBODY);
    if (status == NOTHING) {
        if (fcntl(fd, F_GETFL) & O_NONBLOCK) {
            close_guarded(fd);
            fd = -1;
            reply_value(listener, n->id, 0, EAGAIN);
            status = 1;
        } else if (waits_for_ever(fd)) {
            status = park(module, self, service, fd, flags, listener, n, journal, event);
            fd = -1;
        } else {
            status = 0;
        }
    }
    if (fd >= 0) {
        close_soon(fd, 1);
    }
    return status;
}
