/* The objects that `wait` and Python share: sockets, ports, routes, and what is known of them all. See _kernel.pyi. */
#include "kernel.h"
#include <structmember.h>
#include <sys/random.h>

static void free_object(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc free_it = (freefunc)PyType_GetSlot(type, Py_tp_free);
    free_it(self);
    Py_DECREF(type);
}

/* -- Sock */

static int sock_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    SockObject *self = (SockObject *)object;
    static char *names[] = {"cookie", "app", "family", "unix", "options", NULL};
    PyObject *app, *options;
    int file;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "LOipO:Sock", names, &self->cookie, &app, &self->family, &file,
                                     &options)) {
        return -1;
    }
    self->unix_file = (char)file;
    self->app = Py_NewRef(app);
    self->options = Py_NewRef(options);
    return 0;
}

static int sock_traverse(PyObject *object, visitproc visit, void *arg) {
    SockObject *self = (SockObject *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->app);
    Py_VISIT(self->bound);
    Py_VISIT(self->options);
    Py_VISIT(self->parent);
    return 0;
}

static int sock_clear(PyObject *object) {
    SockObject *self = (SockObject *)object;
    Py_CLEAR(self->app);
    Py_CLEAR(self->bound);
    Py_CLEAR(self->options);
    Py_CLEAR(self->link);
    Py_CLEAR(self->parent);
    return 0;
}

static void sock_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    sock_clear(self);
    free_object(self);
}

#define SOCK(name, kind, field) {name, kind, offsetof(SockObject, field), 0, NULL}

static PyMemberDef sock_members[] = {
    SOCK("cookie", T_LONGLONG, cookie),
    SOCK("app", T_OBJECT, app),
    SOCK("family", T_INT, family),
    SOCK("unix", T_BOOL, unix_file),
    SOCK("phase", T_INT, phase),
    SOCK("bound", T_OBJECT, bound),
    SOCK("options", T_OBJECT, options),
    SOCK("named", T_BOOL, named),
    SOCK("link", T_OBJECT, link),
    SOCK("parent", T_OBJECT, parent),
    SOCK("accepted", T_BOOL, accepted),
    SOCK("answered", T_INT, answered),
    SOCK("service", T_INT, service),
    SOCK("led", T_INT, led),
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot sock_slots[] = {
    {Py_tp_doc, "A TCP socket as its app believes to have it."},
    {Py_tp_init, sock_init},
    {Py_tp_traverse, sock_traverse},
    {Py_tp_clear, sock_clear},
    {Py_tp_dealloc, sock_dealloc},
    {Py_tp_members, sock_members},
    {0, NULL},
};

PyType_Spec sock_spec = {
    .name = "appswitch._kernel.Sock",
    .basicsize = sizeof(SockObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = sock_slots,
};

/* -- Parked */

static int parked_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    ParkedObject *self = (ParkedObject *)object;
    static char *names[] = {"call", "fd", "service", "flags", NULL};
    PyObject *call, *fd, *service = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|Oi:Parked", names, &call, &fd, &service, &self->flags)) {
        return -1;
    }
    self->call = Py_NewRef(call);
    self->fd = Py_NewRef(fd);
    self->service = Py_NewRef(service);
    return 0;
}

static int parked_traverse(PyObject *object, visitproc visit, void *arg) {
    ParkedObject *self = (ParkedObject *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->call);
    Py_VISIT(self->service);
    Py_VISIT(self->fd);
    return 0;
}

static int parked_clear(PyObject *object) {
    ParkedObject *self = (ParkedObject *)object;
    Py_CLEAR(self->call);
    Py_CLEAR(self->service);
    Py_CLEAR(self->fd);
    return 0;
}

static void parked_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    parked_clear(self);
    free_object(self);
}

#define PARKED(name, kind, field) {name, kind, offsetof(ParkedObject, field), 0, NULL}

static PyMemberDef parked_members[] = {
    PARKED("call", T_OBJECT, call), PARKED("fd", T_OBJECT, fd),  PARKED("service", T_OBJECT, service),
    PARKED("flags", T_INT, flags),  PARKED("slot", T_INT, slot), PARKED("done", T_BOOL, done),
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot parked_slots[] = {
    {Py_tp_doc, "A call that waits."},
    {Py_tp_init, parked_init},
    {Py_tp_traverse, parked_traverse},
    {Py_tp_clear, parked_clear},
    {Py_tp_dealloc, parked_dealloc},
    {Py_tp_members, parked_members},
    {0, NULL},
};

PyType_Spec parked_spec = {
    .name = "appswitch._kernel.Parked",
    .basicsize = sizeof(ParkedObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = parked_slots,
};

/* -- Ports */

static int ports_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    PortsObject *self = (PortsObject *)object;
    static char *names[] = {"low", "high", "first", "taken", NULL};
    PyObject *taken;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iiiO:Ports", names, &self->low, &self->high, &self->next, &taken)) {
        return -1;
    }
    if (!PyDict_Check(taken) || self->low < 1 || self->low > self->high || self->high > UINT16_MAX ||
        self->next < self->low || self->next > self->high) {
        PyErr_SetString(PyExc_ValueError, "a range of ports, one of it, and a dictionary");
        return -1;
    }
    self->taken = Py_NewRef(taken);
    return 0;
}

/* The next port that nobody has; 0 when there is none, -1 with an exception set. */
int ports_take(PortsObject *self) {
    for (int i = self->low; i <= self->high; i++) {
        int port = self->next;
        self->next = port < self->high ? port + 1 : self->low;
        PyObject *key = PyLong_FromLong(port);
        int taken = key == NULL ? -1 : PyDict_Contains(self->taken, key);
        Py_XDECREF(key);
        if (taken <= 0) {
            return taken < 0 ? -1 : port;
        }
    }
    return 0;
}

static PyObject *ports_method(PyObject *self, PyObject *unused) {
    (void)unused;
    int port = ports_take((PortsObject *)self);
    return port < 0 ? NULL : PyLong_FromLong(port);
}

static int ports_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((PortsObject *)self)->taken);
    return 0;
}

static int ports_clear(PyObject *self) {
    Py_CLEAR(((PortsObject *)self)->taken);
    return 0;
}

static void ports_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    ports_clear(self);
    free_object(self);
}

static PyMethodDef ports_methods[] = {
    {"take", ports_method, METH_NOARGS, "The next one that is not taken; 0 when there is none."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot ports_slots[] = {
    {Py_tp_doc, "The ports that an app's connections come from, one after the other."},
    {Py_tp_init, ports_init},
    {Py_tp_traverse, ports_traverse},
    {Py_tp_clear, ports_clear},
    {Py_tp_dealloc, ports_dealloc},
    {Py_tp_methods, ports_methods},
    {0, NULL},
};

PyType_Spec ports_spec = {
    .name = "appswitch._kernel.Ports",
    .basicsize = sizeof(PortsObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = ports_slots,
};

/* -- Route */

static int route_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    RouteObject *self = (RouteObject *)object;
    static char *keywords[] = {"targets", "ports", "drawn", "lobby", "app", "limit", "names", NULL};
    PyObject *targets, *ports, *lobby = NULL, *app = Py_None, *names = NULL;
    int drawn = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O|pOOiO!:Route", keywords, &PyTuple_Type, &targets, &ports,
                                     &drawn, &lobby, &app, &self->limit, &PyTuple_Type, &names)) {
        return -1;
    }
    if (PyTuple_Size(targets) == 0) {
        PyErr_SetString(PyExc_ValueError, "a route leads somewhere");
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyTuple_Size(targets); i++) {
        PyObject *target = PyTuple_GetItem(targets, i);
        if (!PyTuple_Check(target) || PyTuple_Size(target) != 3 || !PyBytes_Check(PyTuple_GetItem(target, 0)) ||
            PyBytes_Size(PyTuple_GetItem(target, 0)) != NAME_SIZE - HEAD_SIZE ||
            !PyBytes_Check(PyTuple_GetItem(target, 1))) {
            PyErr_SetString(PyExc_ValueError, "a target is the rest of a name, a path, and a service");
            return -1;
        }
    }
    self->targets = Py_NewRef(targets);
    self->ports = Py_NewRef(ports);
    self->lobby = Py_XNewRef(lobby);
    self->app = Py_NewRef(app);
    self->names = names == NULL ? PyTuple_New(0) : Py_NewRef(names);
    self->decided = PyDict_New();
    self->drawn = (char)drawn;
    self->counts = PyMem_Calloc((size_t)PyTuple_Size(targets), sizeof *self->counts);
    if (self->counts == NULL) {
        PyErr_NoMemory();
    }
    return self->names == NULL || self->decided == NULL || self->counts == NULL ? -1 : 0;
}

/* How often each target was taken since the last time that somebody asked; None where none was. */
static PyObject *route_take(PyObject *object, PyObject *unused) {
    RouteObject *self = (RouteObject *)object;
    Py_ssize_t count = PyTuple_Size(self->targets);
    unsigned long long sum = 0;
    (void)unused;
    for (Py_ssize_t i = 0; i < count; i++) {
        sum += self->counts[i];
    }
    if (sum == 0) {
        Py_RETURN_NONE;
    }
    PyObject *taken = PyTuple_New(count);
    for (Py_ssize_t i = 0; taken != NULL && i < count; i++) {
        PyObject *number = PyLong_FromUnsignedLongLong(self->counts[i]);
        if (number == NULL) {
            Py_CLEAR(taken);
        } else {
            PyTuple_SetItem(taken, i, number); /* steals */
        }
    }
    if (taken != NULL) {
        memset(self->counts, 0, (size_t)count * sizeof *self->counts);
    }
    return taken;
}

static int route_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((RouteObject *)self)->targets);
    Py_VISIT(((RouteObject *)self)->ports);
    Py_VISIT(((RouteObject *)self)->decided);
    return 0;
}

static int route_clear(PyObject *self) {
    Py_CLEAR(((RouteObject *)self)->targets);
    Py_CLEAR(((RouteObject *)self)->ports);
    Py_CLEAR(((RouteObject *)self)->lobby);
    Py_CLEAR(((RouteObject *)self)->app);
    Py_CLEAR(((RouteObject *)self)->names);
    Py_CLEAR(((RouteObject *)self)->decided);
    return 0;
}

static void route_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    route_clear(self);
    PyMem_Free(((RouteObject *)self)->counts);
    free_object(self);
}

static PyMethodDef route_methods[] = {
    {"take", route_take, METH_NOARGS, "How often each target was taken since the last call; None where none was."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef route_members[] = {
    {"decided", T_OBJECT, offsetof(RouteObject, decided), READONLY, NULL},
    {"names", T_OBJECT, offsetof(RouteObject, names), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot route_slots[] = {
    {Py_tp_doc, "Where connect(2) to an address leads, as it was decided before."},
    {Py_tp_init, route_init},
    {Py_tp_traverse, route_traverse},
    {Py_tp_clear, route_clear},
    {Py_tp_dealloc, route_dealloc},
    {Py_tp_methods, route_methods},
    {Py_tp_members, route_members},
    {0, NULL},
};

PyType_Spec route_spec = {
    .name = "appswitch._kernel.Route",
    .basicsize = sizeof(RouteObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = route_slots,
};

/* -- Reflex */

#define DICTIONARIES(X)                                                                                                \
    X(apps)                                                                                                            \
    X(pidfds)                                                                                                          \
    X(sockets)                                                                                                         \
    X(listening)                                                                                                       \
    X(services) X(routes) X(own_names) X(steps) X(answers) X(steady) X(held) X(crowd) X(parked) X(touched) X(tickets)
#define CALLBACKS(X)                                                                                                   \
    X(on_arrival) X(on_left) X(on_wait) X(on_hold) X(on_bytes) X(on_refused) X(on_unclaimed) X(on_touch)

static const char *const call_names[CALLS] = {"socket",      "connect",    "accept",     "accept4", "getsockname",
                                              "getpeername", "getsockopt", "setsockopt", "sendto",  "sendmsg"};

static int reflex_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    ReflexObject *self = (ReflexObject *)object;
    static char *names[] = {"numbers", "sock", "options", NULL};
    PyObject *numbers, *type, *options;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!OO:Reflex", names, &PyDict_Type, &numbers, &type, &options)) {
        return -1;
    }
    for (int i = 0; i < CALLS; i++) {
        PyObject *number = PyDict_GetItemString(numbers, call_names[i]);
        self->numbers[i] = -1; /* a call that the architecture has not, or that is Python's */
        if (number != NULL && as_int(number, &self->numbers[i]) < 0) {
            return -1;
        }
    }
    self->sock_type = Py_NewRef(type);
    self->no_options = Py_NewRef(options);
#define MAKE(name)                                                                                                     \
    if ((self->name = PyDict_New()) == NULL) {                                                                         \
        return -1;                                                                                                     \
    }
    DICTIONARIES(MAKE)
#undef MAKE
    self->most_held = self->most_by_app = self->first_reserved = INT_MAX;
    self->next_led = 1;
    self->free_led = PyMem_Calloc(LEDS, sizeof *self->free_led);
    if (self->free_led == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (getrandom(&self->dice, sizeof self->dice, GRND_NONBLOCK) != sizeof self->dice || self->dice == 0) {
        self->dice = (uint64_t)getpid();
    }
    return 0;
}

static PyObject *reflex_served(PyObject *object, PyObject *unused) {
    (void)unused;
    PyObject *result = PyDict_New();
    for (int i = 0; result != NULL && i < CALLS; i++) {
        PyObject *count = PyLong_FromUnsignedLongLong(((ReflexObject *)object)->served[i]);
        if (count == NULL || PyDict_SetItemString(result, call_names[i], count) < 0) {
            Py_CLEAR(result);
        }
        Py_XDECREF(count);
    }
    return result;
}

static int reflex_traverse(PyObject *object, visitproc visit, void *arg) {
    ReflexObject *self = (ReflexObject *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->sock_type);
    Py_VISIT(self->no_options);
#define VISIT(name) Py_VISIT(self->name);
    DICTIONARIES(VISIT)
    CALLBACKS(VISIT)
#undef VISIT
    return 0;
}

static int reflex_clear(PyObject *object) {
    ReflexObject *self = (ReflexObject *)object;
    Py_CLEAR(self->sock_type);
    Py_CLEAR(self->no_options);
#define CLEAR(name) Py_CLEAR(self->name);
    DICTIONARIES(CLEAR)
    CALLBACKS(CLEAR)
#undef CLEAR
    return 0;
}

static void reflex_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    reflex_clear(self);
    PyMem_Free(((ReflexObject *)self)->free_led);
    free_object(self);
}

/* give_back(led): a record of the journal may be used again. */
static PyObject *reflex_give_back(PyObject *object, PyObject *number) {
    ReflexObject *self = (ReflexObject *)object;
    int led;
    if (as_int(number, &led) < 0) {
        return NULL;
    }
    if (led <= 0 || led >= self->next_led || self->free_leds >= LEDS) {
        PyErr_SetString(PyExc_ValueError, "not a record that was taken");
        return NULL;
    }
    self->free_led[self->free_leds++] = led;
    Py_RETURN_NONE;
}

static PyMethodDef reflex_methods[] = {
    {"give_back", reflex_give_back, METH_O, "A record of the journal may be used again."},
    {"served", reflex_served, METH_NOARGS, "How many calls were answered here, by name."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef reflex_members[] = {
#define MEMBER(name) {#name, T_OBJECT, offsetof(ReflexObject, name), READONLY, NULL},
    DICTIONARIES(MEMBER)
#undef MEMBER
#define CALLBACK(name) {#name, T_OBJECT, offsetof(ReflexObject, name), 0, NULL},
        CALLBACKS(CALLBACK)
#undef CALLBACK
            {"first_reserved", T_INT, offsetof(ReflexObject, first_reserved), 0, NULL},
    {"ticketed", T_INT, offsetof(ReflexObject, ticketed), 0, NULL},
    {"led", T_ULONGLONG, offsetof(ReflexObject, led), READONLY, NULL},
    {"most_held", T_INT, offsetof(ReflexObject, most_held), 0, NULL},
    {"most_by_app", T_INT, offsetof(ReflexObject, most_by_app), 0, NULL},
    {"ticking", T_BOOL, offsetof(ReflexObject, ticking), 0, NULL},
    {"succeeded", T_BOOL, offsetof(ReflexObject, succeeded), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot reflex_slots[] = {
    {Py_tp_doc, "What is known already, so that calls about it are answered without a decision."},
    {Py_tp_init, reflex_init},
    {Py_tp_traverse, reflex_traverse},
    {Py_tp_clear, reflex_clear},
    {Py_tp_dealloc, reflex_dealloc},
    {Py_tp_methods, reflex_methods},
    {Py_tp_members, reflex_members},
    {0, NULL},
};

PyType_Spec reflex_spec = {
    .name = "appswitch._kernel.Reflex",
    .basicsize = sizeof(ReflexObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = reflex_slots,
};
