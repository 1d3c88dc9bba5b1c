/* getsockname(2), getpeername(2): the name of a connection has both ends. */
#include "reflex.h"

/* 1; 0 where Python must look; -1 with an exception set. */
int read_ends(ReflexObject *self, int fd, struct ends *ends) {
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
PyObject *own_name(ReflexObject *self, const struct ends *ends) {
    enum { SERVER = sizeof ends->link.server_ip + sizeof ends->link.server_size + sizeof ends->link.server_port };
    char key[sizeof ends->own.sun_path + SERVER];
    memcpy(key, ends->own.sun_path, ends->own_size);
    memcpy(key + ends->own_size, ends->link.server_ip, SERVER);
    return look_up_bytes(self->own_names, key, ends->own_size + SERVER);
}

int is_up(const SockObject *sock) { return sock->phase == CONNECTED || sock->phase == FINISHING; }

/* Fill a value-result pair and reply. */
int tell(int listener, const struct seccomp_notif *n, uint64_t address, uint64_t length_address, const void *data,
         socklen_t size) {
    int error = write_pair(listener, n->id, (int)n->pid, address, length_address, data, (int32_t)size);
    if (error != ENOENT) {
        reply_value(listener, n->id, 0, error);
    }
    return 1;
}

int serve_name(PyObject *module, ReflexObject *self, int listener, int of_peer, const struct seccomp_notif *n) {
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
