/* What the files of appswitch._kernel share. */
#ifndef APPSWITCH_KERNEL_H
#define APPSWITCH_KERNEL_H

#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* Newer than the oldest headers that we build with. */
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif
#ifndef SECCOMP_ADDFD_FLAG_SEND
#define SECCOMP_ADDFD_FLAG_SEND (1UL << 1)
#endif
#define PIDFD_THREAD_FLAG O_EXCL
#define KCMP_FILE_TYPE 0
#define KCMP_EPOLL_TFD_TYPE 7

struct module_state {
    PyTypeObject *fd_type, *sock_type, *parked_type, *ports_type, *route_type, *reflex_type;
};

/* An owned descriptor: see fd.c. `foreign`: somebody else has the file, too, and may have any file. */
typedef struct {
    PyObject_HEAD int fd;
    int foreign;
} FdObject;

/* A TCP socket as its app believes to have it: the part of switch/sockets.py that `wait` works with, too. See sock.c.
 */
typedef struct {
    PyObject_HEAD long long cookie;
    PyObject *app, *bound, *options, *link, *parent;
    int family, phase, answered, service;
    int led;                         /* its record in the journal: see LEDS */
    char unix_file, named, accepted; /* T_BOOL */
} SockObject;

enum phase { NEW, LISTENING, CONNECTING, FINISHING, CONNECTED }; /* as switch/sockets.py has them */

/* A call that waits: the part of switch/parking.py that `wait` works with, too. See sock.c. */
typedef struct {
    PyObject_HEAD PyObject *call, *service, *fd; /* of an accept(2) that waits without an end: its service; else None */
    int flags, slot;
    char done; /* T_BOOL: it was answered, and its thread has made no other call that waits */
} ParkedObject;

/* The ports that an app's connections come from, one after the other. See sock.c. */
typedef struct {
    PyObject_HEAD int next, low, high;
    PyObject *taken;
} PortsObject;

/* Where connect(2) to an address leads, as it was decided before; with `lobby`, the listener of switch/lobby.py, it is
 * held there until its first bytes have come, `limit` of them at most. See sock.c. */
typedef struct {
    PyObject_HEAD PyObject *targets, *ports, *lobby, *app;
    PyObject *names, *decided; /* with a lobby: of the attributes that matter, and routes by their values */
    int limit;
    char drawn; /* T_BOOL: each target as likely as any; else by turns */
    uint64_t turn;
    unsigned long long *counts; /* how often each target was taken, since somebody asked */
} RouteObject;

/* What is answered without a decision: see reflex.c. */
enum call {
    SOCKET,
    CONNECT,
    ACCEPT,
    ACCEPT4,
    GETSOCKNAME,
    GETPEERNAME,
    GETSOCKOPT,
    SETSOCKOPT,
    SENDTO,
    SENDMSG,
    CALLS
};

typedef struct {
    PyObject_HEAD int numbers[CALLS];
    unsigned long long served[CALLS], led;
    PyObject *sock_type, *no_options;
    PyObject *apps, *pidfds, *sockets, *listening, *services, *routes, *own_names, *steps, *answers, *steady;
    PyObject *held, *crowd, *parked, *touched, *tickets;
    PyObject *on_arrival, *on_left, *on_wait, *on_hold, *on_bytes, *on_refused, *on_unclaimed, *on_touch;
    uint64_t dice;
    int *free_led, free_leds, next_led; /* records that were given back, and the first that never was taken */
    int most_held, most_by_app, ticketed;
    int first_reserved; /* descriptors from there on are kept back: nothing may wait with one */
    char ticking;       /* T_BOOL: somebody looks at what is held, and for how long */
    char succeeded;     /* T_BOOL: an earlier switch has noted what it knew of connections, and Python has the notes */
} ReflexObject;

extern PyType_Spec fd_spec, sock_spec, parked_spec, ports_spec, route_spec, reflex_spec;

#define ARGS PyObject *module, PyObject *const *args, Py_ssize_t nargs

/* Every function of the module: its name in Python, and k_NAME in C. */
/* clang-format off */
#define FUNCTIONS(X) \
    X(epoll_watch) X(wait) X(reply) X(reply_continue) X(still_valid) X(add_fd) \
    X(is_notifier) X(sync_wake_up) X(pidfd_open) X(fetch) X(fetch_sockaddr) X(read_argument) \
    X(write_result) X(vm_write) X(epoll_has) X(same_file) X(socket) X(cookie) X(status_flags) \
    X(set_status_flags) X(bind) X(connect) X(connect_unix) X(bind_unix) X(listen) \
    X(send) X(peek) X(join) X(inherit) X(is_shut) X(shutdown) X(accept) \
    X(accept_give) X(trust) X(getsockname) X(getpeername) X(getsockopt) X(setsockopt) X(open_elsewhere) \
    X(epoll_add_at) X(name_head) X(http_request) X(dump_unix) X(is_listed) X(is_connected) X(list_begin) X(list_more) \
    X(dump_inet) X(dump_tcp_info) X(socket_in) X(receive) X(send_to) X(inherit_datagram) X(attach_filter) \
    X(signal_fd) X(watch_over) X(ended_for_us) X(hold) X(spawn) X(set_ours) X(give) X(note_loans)
/* clang-format on */

#define DECLARE(name) PyObject *k_##name(ARGS);
FUNCTIONS(DECLARE)
#undef DECLARE

struct module_state *state_of(PyObject *module);

PyObject *fd_wrap(PyTypeObject *type, int fd);
int as_fd(PyObject *module, PyObject *object);
int as_int(PyObject *object, int *value);
int as_u64(PyObject *object, uint64_t *value);
int as_bytes(PyObject *object, char **data, Py_ssize_t *size);
int arity(const char *name, Py_ssize_t given, Py_ssize_t wanted);
PyObject *fd_result(PyObject *module, int fd);
void release(PyObject *module, PyObject *object);
PyObject *errno_result(int result);
int vm_copy(int tid, uint64_t address, void *data, size_t size, int write);
int vm_write_both(int tid, uint64_t one, const void *data, size_t size, uint64_t other, const void *more,
                  size_t length);
int is_valid(int listener, uint64_t id);
int write_pair(int listener, uint64_t id, int tid, uint64_t address, uint64_t length_address, const void *data,
               int32_t length);
int unix_address(struct sockaddr_un *address, const char *name, Py_ssize_t size, socklen_t *length);
int connect_now(int fd, const struct sockaddr *address, socklen_t size);
int accept_now(int fd, struct sockaddr_storage *peer, socklen_t *size);
void inherit(int from, int to);
int nudge(int fd);
void lend(int fd, int flags);
void take_back(int fd, int flags);
void enter(void);
void leave(void);
void enter_memory(pid_t tid);
void leave_memory(void);
int abort_fuse(pid_t own, pid_t tid, int all);
void close_soon(int fd, int foreign);
void close_guarded(int fd);
int is_half_closed(int fd);
int join_now(int fd, int flags, const struct sockaddr_un *own, socklen_t own_size, const struct sockaddr_un *peer,
             socklen_t peer_size);
int ports_take(PortsObject *ports);
int reply_value(int listener, uint64_t id, int64_t value, int error);
int reflex(PyObject *module, ReflexObject *self, int epoll, int listener, int tcp, const struct seccomp_notif *n,
           Py_buffer *journal, PyObject **event);
PyObject *first_bytes(PyObject *module, ReflexObject *self, int epoll, int fd, Py_buffer *journal);
PyObject *tuple_of_call(int fd, const struct seccomp_notif *n);

/* An ordinary HTTP/1 request, as it lies in its bytes: request.c. */
struct text {
    const char *start; /* NULL: there is none */
    Py_ssize_t size;
};

struct header {
    struct text name, value;
};

enum { MAX_HEADERS = 64 };

struct request {
    struct text method, version, path, query, authority, host, head; /* head: all of it, with the empty line */
    int count;
    struct header headers[MAX_HEADERS];
};

int read_request(const char *data, Py_ssize_t size, struct request *request);
PyObject *request_attribute(const struct request *request, const char *name, Py_ssize_t size);

/* What the abstract name of a connecting socket says behind its magic, in hexadecimal, as switch/naming.py makes it:
 * network byte order, no padding. */
struct __attribute__((packed)) connection_name {
    unsigned char salt[2];
    uint32_t serial;
    uint16_t client_port;
    uint32_t client_app, server_app;
    unsigned char client_ip[16], client_size, server_ip[16], server_size;
    uint16_t server_port;
};

#define NAME_MAGIC "\0AX1"
enum { MAGIC_SIZE = 4, HEAD_SIZE = MAGIC_SIZE + 2 * 8, NAME_SIZE = MAGIC_SIZE + 2 * sizeof(struct connection_name) };

union peer_address {
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
};

/* The name of a socket whose connection stands in a queue for another one, as switch/naming.py has it. */
#define TICKET 'T'
enum { TICKET_SIZE = HEAD_SIZE + 1 };

void write_head(char *text, int port);
int read_name(const struct sockaddr_un *peer, socklen_t size, struct connection_name *name);
socklen_t shown_address(const unsigned char *ip, int size, uint16_t port, int family, union peer_address *address);
int accept_given(PyObject *module, int listener, uint64_t id, int tid, int fd, int *held, const uint64_t *pointers,
                 int family, int flags, PyObject **left);

/* The data of an event is the descriptor's number; for one that delivers notifications with this bit. A caller may
 * choose other data (above it) for a file whose number it does not keep. */
#define NOTIFIER (1ULL << 32)
#define TCP_ONLY (1ULL << 33) /* with NOTIFIER: of an app that gets no Unix sockets */
#define HELD (1ULL << 34)     /* instead of NOTIFIER: a connection that waits for its first bytes */

/* The ring of sockets in the journal: switch/journal.py. */
#define BIRTHS_AT (8192 * 80)
#define BIRTHS 4096
#define BORN_TCP 0x80 /* in an entry of it: a TCP socket */

/* Behind it: which held connections were led to which service without Python, by the cookies of both ends. */
struct led {
    uint64_t client, server, service;
};
#define LEDS_AT (BIRTHS_AT + (1 + BIRTHS) * 16)
#define LEDS 32768 /* the first is none */

/* Behind that, a ring of the options that were set last on sockets that are not connected; the first counts them. */
struct written {
    uint64_t cookie;
    int32_t level, name, value, unused;
};
#define SETS_AT (LEDS_AT + LEDS * 24)
#define SETS 4096

/* Behind that, which file has O_NONBLOCK from us: our number of it (0: none), and its flags without. loan.c */
struct loan {
    int32_t number, flags;
};
#define LOAN_AT (SETS_AT + (1 + SETS) * 24)

#endif
