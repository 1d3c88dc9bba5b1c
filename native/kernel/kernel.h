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
    PyTypeObject *fd_type;
};

/* An owned descriptor: see fd.c. */
typedef struct {
    PyObject_HEAD int fd;
} FdObject;

extern PyType_Spec fd_spec;

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
    X(epoll_add_at) X(dump_unix) X(dump_inet) X(dump_tcp_info) X(socket_in) X(receive) X(send_to) \
    X(inherit_datagram) X(attach_filter) X(signal_fd)
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
int is_valid(int listener, uint64_t id);
int write_pair(int listener, uint64_t id, int tid, uint64_t address, uint64_t length_address, const void *data,
               int32_t length);
int unix_address(struct sockaddr_un *address, const char *name, Py_ssize_t size, socklen_t *length);
int connect_now(int fd, const struct sockaddr *address, socklen_t size);
int accept_now(int fd, struct sockaddr_storage *peer, socklen_t *size);
void inherit(int from, int to);
int nudge(int fd);

/* The data of an event is the descriptor's number; for one that delivers notifications with this bit. A caller may
 * choose other data (above it) for a file whose number it does not keep. */
#define NOTIFIER (1ULL << 32)
#define TCP_ONLY (1ULL << 33) /* with NOTIFIER: of an app that gets no Unix sockets */
#define BORN_TCP 0x80         /* in a value of `born`: a TCP socket */

/* The ring of sockets in the journal: switch/journal.py. */
#define BIRTHS_AT (8192 * 80)
#define BIRTHS 4096

#endif
