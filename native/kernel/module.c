/* appswitch._kernel: the Linux that Python lacks, as thin as it can be.
 *
 * Two rules. A descriptor is an `Fd`: an object that closes it when the last reference goes, so that no path of
 * the switch can leak one. And a call that may fail for an app's sake (a hostile pointer, a closed listener)
 * reports an errno as a value; only what is our own mistake raises OSError.
 *
 * Sources: seccomp_unotify(2), pidfd_getfd(2), process_vm_readv(2), sock_diag(7), unix(7), kcmp(2).
 */
#include "kernel.h"

#define METHOD(name) {#name, (PyCFunction)(void (*)(void))k_##name, METH_FASTCALL, NULL},

static PyMethodDef module_methods[] = {FUNCTIONS(METHOD){NULL, NULL, 0, NULL}};

struct module_state *state_of(PyObject *module) { return PyModule_GetState(module); }

static int module_exec(PyObject *module) {
    struct module_state *state = state_of(module);
    state->fd_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &fd_spec, NULL);
    if (state->fd_type == NULL) {
        return -1;
    }
    const struct {
        const char *name;
        unsigned long long value;
    } constants[] = {{"NOTIFIER", NOTIFIER}, {"TCP_ONLY", TCP_ONLY}, {"BORN_TCP", BORN_TCP}};
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(constants[i].value);
        int status = value == NULL ? -1 : PyModule_AddObjectRef(module, constants[i].name, value);
        Py_XDECREF(value);
        if (status < 0) {
            return -1;
        }
    }
    return PyModule_AddType(module, state->fd_type);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    Py_VISIT(state_of(module)->fd_type);
    return 0;
}

static int module_clear(PyObject *module) {
    Py_CLEAR(state_of(module)->fd_type);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "appswitch._kernel",
    .m_doc = "System calls, ioctls and netlink that Python lacks. See _kernel.pyi.",
    .m_size = sizeof(struct module_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModuleDef_Init(&definition); }
