/* Held connections in the queue of a listener. The socket of one is connected already, and can stand in no queue; so a
 * ticket stands there for it: a connection that we make, and whose name is the key to the other. */
#include "reflex.h"

/* By the service's id: a dictionary of entries by their tickets' names; borrowed. NULL with an exception set. */
static PyObject *tickets_of(ReflexObject *self, PyObject *service) {
    PyObject *id = get_attribute(service, ATTRIBUTE_id);
    PyObject *tickets = id == NULL ? NULL : PyDict_GetItemWithError(self->tickets, id);
    if (id != NULL && tickets == NULL && !PyErr_Occurred()) {
        PyObject *fresh = PyDict_New();
        if (fresh != NULL && PyDict_SetItem(self->tickets, id, fresh) == 0) {
            tickets = fresh;
        }
        Py_XDECREF(fresh); /* the table has it */
    }
    Py_XDECREF(id);
    return tickets;
}

/* Connect a ticket of that name. 0, or -1: the queue is full, or its listener has gone. */
static int stand_in_line(PyObject *service, const char *ticket) {
    struct sockaddr_un own, peer;
    socklen_t own_size, peer_size;
    char *file;
    Py_ssize_t size;
    PyObject *path = get_attribute(service, ATTRIBUTE_name);
    int status = path == NULL || as_bytes(path, &file, &size) < 0 || unix_address(&peer, file, size, &peer_size) < 0 ||
                         unix_address(&own, ticket, TICKET_SIZE, &own_size) < 0
                     ? -1
                     : 0;
    Py_XDECREF(path);
    int fd = status < 0 ? -1 : socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 &&
        (bind(fd, (struct sockaddr *)&own, own_size) < 0 || connect(fd, (struct sockaddr *)&peer, peer_size) < 0)) {
        status = -1;
    }
    if (fd >= 0) {
        close(fd);
    }
    return fd < 0 ? -1 : status;
}

/* Put a held connection into the queue of a service. 1; 0 where Python must look, and nothing was touched; -1 with an
 * exception set. */
int queue(ReflexObject *self, PyObject *service, PyObject *entry) {
    char name[TICKET_SIZE];
    if (self->ticketed >= self->most_held) {
        return 0;
    }
    write_head(name, 0);
    name[HEAD_SIZE] = TICKET;
    PyObject *tickets = tickets_of(self, service), *key = PyBytes_FromStringAndSize(name, sizeof name);
    int status = tickets == NULL || key == NULL ? -1 : stand_in_line(service, name) < 0 ? unknown() : 1;
    if (status > 0) {
        status = PyDict_SetItem(tickets, key, entry) < 0 ? -1 : 1;
        self->ticketed += status > 0;
    }
    Py_XDECREF(key);
    return status;
}

/* The entry for which somebody (his sockaddr) stands in the queue of a service; NULL where it is no ticket, or with an
 * exception set. */
PyObject *claim(ReflexObject *self, PyObject *service, PyObject *peer) {
    const Py_ssize_t head = offsetof(struct sockaddr_un, sun_path);
    char *address;
    Py_ssize_t size;
    if (as_bytes(peer, &address, &size) < 0 || size != head + TICKET_SIZE || address[size - 1] != TICKET) {
        return NULL;
    }
    PyObject *tickets = tickets_of(self, service), *key = PyBytes_FromStringAndSize(address + head, TICKET_SIZE);
    PyObject *entry = tickets == NULL || key == NULL ? NULL : Py_XNewRef(PyDict_GetItemWithError(tickets, key));
    if (entry != NULL && PyDict_DelItem(tickets, key) < 0) {
        Py_CLEAR(entry);
    }
    self->ticketed -= entry != NULL;
    Py_XDECREF(key);
    return entry;
}
