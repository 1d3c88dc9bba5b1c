/* The Fd type, and how arguments become C. */
#include "kernel.h"

PyObject *fd_wrap(PyTypeObject *type, int fd) {
    FdObject *self = (FdObject *)PyType_GenericAlloc(type, 0);
    if (self == NULL) {
        close(fd);
        return NULL;
    }
    self->fd = fd;
    return (PyObject *)self;
}

static PyObject *fd_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    int fd;
    static char *names[] = {"fd", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i:Fd", names, &fd)) {
        return NULL;
    }
    if (fd < 0) {
        PyErr_SetString(PyExc_ValueError, "a descriptor is not negative");
        return NULL;
    }
    FdObject *self = (FdObject *)PyType_GenericAlloc(type, 0);
    if (self != NULL) {
        self->fd = fd;
        self->foreign = 1;
    }
    return (PyObject *)self;
}

static void fd_dealloc(PyObject *object) {
    FdObject *self = (FdObject *)object;
    PyTypeObject *type = Py_TYPE(object);
    if (self->fd >= 0) {
        close_soon(self->fd, self->foreign);
    }
    freefunc free_object = (freefunc)PyType_GetSlot(type, Py_tp_free);
    free_object(object);
    Py_DECREF(type);
}

static PyObject *fd_fileno(PyObject *self, PyObject *unused) {
    (void)unused;
    int fd = ((FdObject *)self)->fd;
    if (fd < 0) {
        PyErr_SetString(PyExc_ValueError, "the descriptor is closed");
        return NULL;
    }
    return PyLong_FromLong(fd);
}

static PyObject *fd_close(PyObject *self, PyObject *unused) {
    (void)unused;
    FdObject *object = (FdObject *)self;
    if (object->fd >= 0) {
        close_soon(object->fd, object->foreign);
        object->fd = -1;
    }
    Py_RETURN_NONE;
}

static PyObject *fd_detach(PyObject *self, PyObject *unused) {
    PyObject *number = fd_fileno(self, unused);
    if (number != NULL) {
        ((FdObject *)self)->fd = -1;
    }
    return number;
}

static PyObject *fd_repr(PyObject *self) { return PyUnicode_FromFormat("<Fd %d>", ((FdObject *)self)->fd); }

static PyMethodDef fd_methods[] = {
    {"fileno", fd_fileno, METH_NOARGS, "The descriptor's number. Raises ValueError when closed."},
    {"close", fd_close, METH_NOARGS, "Close it now. Closing twice does nothing."},
    {"detach", fd_detach, METH_NOARGS, "Give the number away; the object no longer owns it."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot fd_slots[] = {
    {Py_tp_doc, "An owned descriptor: closed once, by its one owner, at the latest when the object goes."},
    {Py_tp_new, fd_new},
    {Py_tp_dealloc, fd_dealloc},
    {Py_tp_repr, fd_repr},
    {Py_tp_methods, fd_methods},
    {0, NULL},
};

PyType_Spec fd_spec = {
    .name = "appswitch._kernel.Fd",
    .basicsize = sizeof(FdObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = fd_slots,
};

int as_fd(PyObject *module, PyObject *object) {
    if (Py_TYPE(object) == state_of(module)->fd_type) {
        int fd = ((FdObject *)object)->fd;
        if (fd < 0) {
            PyErr_SetString(PyExc_ValueError, "the descriptor is closed");
        }
        return fd;
    }
    long value = PyLong_AsLong(object);
    if (value == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (value < 0 || value > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "not a descriptor");
        return -1;
    }
    return (int)value;
}

int as_int(PyObject *object, int *value) {
    long number = PyLong_AsLong(object);
    if (number == -1 && PyErr_Occurred()) {
        return -1;
    }
    *value = (int)number;
    return 0;
}

int as_u64(PyObject *object, uint64_t *value) {
    *value = PyLong_AsUnsignedLongLong(object);
    return *value == UINT64_MAX && PyErr_Occurred() ? -1 : 0;
}

int as_bytes(PyObject *object, char **data, Py_ssize_t *size) { return PyBytes_AsStringAndSize(object, data, size); }

int arity(const char *name, Py_ssize_t given, Py_ssize_t wanted) {
    if (given == wanted) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, %zd given", name, wanted, given);
    return -1;
}

/* A descriptor that a system call returned: an Fd, or OSError. */
PyObject *fd_result(PyObject *module, int fd) {
    if (fd < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return fd_wrap(state_of(module)->fd_type, fd);
}

/* Our duplicate of an app's Unix socket goes before the reply: when the app closes its own, the socket must be closed.
 */
void release(PyObject *module, PyObject *object) {
    if (Py_TYPE(object) == state_of(module)->fd_type && ((FdObject *)object)->fd >= 0) {
        enter();
        close(((FdObject *)object)->fd);
        leave();
        ((FdObject *)object)->fd = -1;
    }
}

/* 0, or the errno of a call that failed. */
PyObject *errno_result(int result) { return PyLong_FromLong(result < 0 ? errno : 0); }
