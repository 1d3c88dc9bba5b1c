/* The objects that `wait` and Python share: sockets, ports, routes, and what is known of them all. See _kernel.pyi. */
#include "kernel.h"
#include <structmember.h>

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
    SOCK("cookie", T_LONGLONG, cookie), SOCK("app", T_OBJECT, app),
    SOCK("family", T_INT, family),      SOCK("unix", T_BOOL, unix_file),
    SOCK("phase", T_INT, phase),        SOCK("bound", T_OBJECT, bound),
    SOCK("options", T_OBJECT, options), SOCK("named", T_BOOL, named),
    SOCK("link", T_OBJECT, link),       SOCK("parent", T_OBJECT, parent),
    SOCK("accepted", T_BOOL, accepted), SOCK("answered", T_INT, answered),
    SOCK("service", T_INT, service),    {NULL, 0, 0, 0, NULL},
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
    static char *names[] = {"targets", "ports", "lobby", "app", "limit", NULL};
    PyObject *targets, *ports, *lobby = NULL, *app = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!O|OOi:Route", names, &PyTuple_Type, &targets, &ports, &lobby,
                                     &app, &self->limit)) {
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
    return 0;
}

static int route_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((RouteObject *)self)->targets);
    Py_VISIT(((RouteObject *)self)->ports);
    return 0;
}

static int route_clear(PyObject *self) {
    Py_CLEAR(((RouteObject *)self)->targets);
    Py_CLEAR(((RouteObject *)self)->ports);
    Py_CLEAR(((RouteObject *)self)->lobby);
    Py_CLEAR(((RouteObject *)self)->app);
    return 0;
}

static void route_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    route_clear(self);
    free_object(self);
}

static PyMemberDef route_members[] = {
    {"used", T_ULONGLONG, offsetof(RouteObject, used), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot route_slots[] = {
    {Py_tp_doc, "Where connect(2) to an address leads, as it was decided before."},
    {Py_tp_init, route_init},
    {Py_tp_traverse, route_traverse},
    {Py_tp_clear, route_clear},
    {Py_tp_dealloc, route_dealloc},
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
    X(pidfds) X(sockets) X(listening) X(services) X(routes) X(own_names) X(steps) X(answers) X(steady) X(held) X(crowd)
#define CALLBACKS(X) X(on_arrival) X(on_left) X(on_hold) X(on_bytes) X(on_set)

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
    self->most_held = self->most_by_app = INT_MAX;
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
    free_object(self);
}

static PyMethodDef reflex_methods[] = {
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
