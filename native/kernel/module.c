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
    const struct {
        PyTypeObject **type;
        PyType_Spec *spec;
    } types[] = {{&state->fd_type, &fd_spec},         {&state->sock_type, &sock_spec},
                 {&state->parked_type, &parked_spec}, {&state->ports_type, &ports_spec},
                 {&state->route_type, &route_spec},   {&state->reflex_type, &reflex_spec}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        *types[i].type = (PyTypeObject *)PyType_FromModuleAndSpec(module, types[i].spec, NULL);
        if (*types[i].type == NULL || PyModule_AddType(module, *types[i].type) < 0) {
            return -1;
        }
    }
    const struct {
        const char *name;
        unsigned long long value;
    } constants[] = {{"NOTIFIER", NOTIFIER}, {"TCP_ONLY", TCP_ONLY}, {"HELD", HELD}, {"BORN_TCP", BORN_TCP}};
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(constants[i].value);
        int status = value == NULL ? -1 : PyModule_AddObjectRef(module, constants[i].name, value);
        Py_XDECREF(value);
        if (status < 0) {
            return -1;
        }
    }
    PyObject *magic = PyBytes_FromStringAndSize(NAME_MAGIC, MAGIC_SIZE);
    int status = magic == NULL ? -1 : PyModule_AddObjectRef(module, "NAME_MAGIC", magic);
    Py_XDECREF(magic);
    return status;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    struct module_state *state = state_of(module);
    Py_VISIT(state->fd_type);
    Py_VISIT(state->sock_type);
    Py_VISIT(state->parked_type);
    Py_VISIT(state->ports_type);
    Py_VISIT(state->route_type);
    Py_VISIT(state->reflex_type);
    return 0;
}

static int module_clear(PyObject *module) {
    struct module_state *state = state_of(module);
    Py_CLEAR(state->fd_type);
    Py_CLEAR(state->sock_type);
    Py_CLEAR(state->parked_type);
    Py_CLEAR(state->ports_type);
    Py_CLEAR(state->route_type);
    Py_CLEAR(state->reflex_type);
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
