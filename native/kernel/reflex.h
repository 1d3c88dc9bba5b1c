/* What the files of the reflex share: see reflex.c. */
#ifndef APPSWITCH_REFLEX_H
#define APPSWITCH_REFLEX_H

#include "kernel.h"

/* What a connected Unix socket's name tells. `own` is its file or name. */
struct ends {
    struct connection_name link;
    struct sockaddr_un own;
    socklen_t own_size; /* of the path or name alone */
    SockObject *parent; /* of an accepted one: its listener; borrowed */
};

/* A call of accept(2) that waits, as switch/parking.py has it. */
struct waiter {
    ParkedObject *parked; /* owned; NULL: nobody waits, or it is the call in hand */
    int listener, tid, flags;
    uint64_t id, pointers[2];
    int *listening; /* our duplicate of the socket, somebody else's */
};

/* Attributes of Python's objects, by strings that are made once. */
#define ATTRIBUTES(X)                                                                                                  \
    X(app)                                                                                                             \
    X(args)                                                                                                            \
    X(doors)                                                                                                           \
    X(family)                                                                                                          \
    X(found)                                                                                                           \
    X(id)                                                                                                              \
    X(name)                                                                                                            \
    X(notification)                                                                                                    \
    X(parked)                                                                                                          \
    X(peer_app)                                                                                                        \
    X(returned)                                                                                                        \
    X(rung)                                                                                                            \
    X(socket)                                                                                                          \
    X(watched)
#define AS_NUMBER(name) ATTRIBUTE_##name,
enum attribute { ATTRIBUTES(AS_NUMBER) };
#undef AS_NUMBER

PyObject *get_attribute(PyObject *object, enum attribute which);
int set_attribute(PyObject *object, enum attribute which, PyObject *value);
PyObject *look_up(PyObject *dictionary, uint64_t number);
PyObject *look_up_bytes(PyObject *dictionary, const void *data, size_t size);
void replace_with(PyObject **place, PyObject *stolen);
void replace(PyObject **place, PyObject *value);
int unknown(void);
int fetch(PyObject *module, ReflexObject *self, const struct seccomp_notif *n, int *fd, uint64_t *cookie);
SockObject *find(ReflexObject *self, int listener, uint64_t cookie);
SockObject *new_sock(ReflexObject *self, PyObject *app, uint64_t cookie, int family, int unix_file);
SockObject *add_sock(ReflexObject *self, SockObject *sock);
SockObject *add_accepted(ReflexObject *self, PyObject *app, SockObject *listener, uint64_t cookie,
                         const struct sockaddr_un *peer);
int forget_sock(ReflexObject *self, uint64_t cookie);
int then(PyObject **event, PyObject *function, PyObject *first, PyObject *more);

int serve_connect(PyObject *module, ReflexObject *self, int epoll, int listener, const struct seccomp_notif *n,
                  Py_buffer *journal, PyObject **event);
int serve_accept(PyObject *module, ReflexObject *self, int listener, const struct seccomp_notif *n, Py_buffer *journal,
                 PyObject **event);
int serve_name(PyObject *module, ReflexObject *self, int listener, int of_peer, const struct seccomp_notif *n);
int serve_set_option(PyObject *module, ReflexObject *self, int listener, const struct seccomp_notif *n,
                     Py_buffer *journal, PyObject **event);
int serve_get_option(PyObject *module, ReflexObject *self, int listener, const struct seccomp_notif *n);

Py_ssize_t choose(ReflexObject *self, RouteObject *route);
PyObject *service_of(RouteObject *route, Py_ssize_t index);

int is_plain(PyObject *service);
int find_waiter(PyObject *module, PyObject *service, int check, struct waiter *waiter);
void leave_waiter(struct waiter *waiter);
int can_take(const struct waiter *waiter, PyObject *service);
int was_served(PyObject *service, struct waiter *waiter, Py_buffer *journal);
int wake_waiter(PyObject *module, ReflexObject *self, PyObject *service, struct waiter *waiter, Py_buffer *journal,
                PyObject **event);

enum { REFUSED = 2 };
int give(ReflexObject *self, PyObject *service, PyObject *entry, const struct waiter *waiter, Py_buffer *journal);
void close_entry(PyObject *entry);
int queue(ReflexObject *self, PyObject *service, PyObject *entry);
PyObject *claim(ReflexObject *self, PyObject *service, PyObject *peer);

int has_room(ReflexObject *self, RouteObject *route);
int take_end(int lobby, const struct sockaddr_un *own, socklen_t own_size);
int hold(PyObject *module, ReflexObject *self, int epoll, RouteObject *route, const SockObject *sock, int port,
         int end);

int read_ends(ReflexObject *self, int fd, struct ends *ends);
PyObject *own_name(ReflexObject *self, const struct ends *ends);
int is_up(const SockObject *sock);
int tell(int listener, const struct seccomp_notif *n, uint64_t address, uint64_t length_address, const void *data,
         socklen_t size);

#endif
