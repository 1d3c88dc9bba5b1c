/* Other processes: their descriptors, their memory, their epolls. pidfd_getfd(2), process_vm_readv(2), kcmp(2). */
#include "kernel.h"

PyObject *k_pidfd_open(ARGS) {
    int pid, thread;
    if (arity("pidfd_open", nargs, 2) < 0 || as_int(args[0], &pid) < 0 || as_int(args[1], &thread) < 0) {
        return NULL;
    }
    return fd_result(module, (int)syscall(SYS_pidfd_open, pid, thread ? PIDFD_THREAD_FLAG : 0));
}

int vm_copy(int tid, uint64_t address, void *data, size_t size, int write) {
    struct iovec local = {data, size};
    struct iovec remote = {(void *)(uintptr_t)address, size};
    if (size == 0) {
        return 0;
    }
    enter_memory(tid);
    ssize_t done =
        write ? process_vm_writev(tid, &local, 1, &remote, 1, 0) : process_vm_readv(tid, &local, 1, &remote, 1, 0);
    leave_memory();
    return done == (ssize_t)size ? 0 : -1;
}

/* Write twice by one call. 0, or -1 when either failed. */
int vm_write_both(int tid, uint64_t one, const void *data, size_t size, uint64_t other, const void *more,
                  size_t length) {
    struct iovec local[] = {{(void *)data, size}, {(void *)more, length}};
    struct iovec remote[] = {{(void *)(uintptr_t)one, size}, {(void *)(uintptr_t)other, length}};
    enter_memory(tid);
    ssize_t done = process_vm_writev(tid, local, 2, remote, 2, 0);
    leave_memory();
    return done == (ssize_t)(size + length) ? 0 : -1;
}

PyObject *k_vm_write(ARGS) {
    int tid;
    uint64_t address;
    char *data;
    Py_ssize_t size;
    (void)module;
    if (arity("vm_write", nargs, 3) < 0 || as_int(args[0], &tid) < 0 || as_u64(args[1], &address) < 0 ||
        as_bytes(args[2], &data, &size) < 0) {
        return NULL;
    }
    return PyBool_FromLong(vm_copy(tid, address, data, (size_t)size, 1) == 0);
}

/* fetch(pidfd, number): a duplicate of another process' descriptor, its socket's cookie (or a negative errno), and its
 * file status flags. */
PyObject *k_fetch(ARGS) {
    int number;
    if (arity("fetch", nargs, 2) < 0 || as_int(args[1], &number) < 0) {
        return NULL;
    }
    int pidfd = as_fd(module, args[0]);
    if (pidfd < 0) {
        return NULL;
    }
    int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
    if (fd < 0) {
        return PyLong_FromLong(errno);
    }
    uint64_t cookie;
    socklen_t size = sizeof cookie;
    long long identity = getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) < 0 ? -errno : (long long)cookie;
    int flags = fcntl(fd, F_GETFL);
    PyObject *owned = fd_wrap(state_of(module)->fd_type, fd);
    if (owned == NULL) {
        return NULL;
    }
    ((FdObject *)owned)->foreign = 1;
    return Py_BuildValue("(NLi)", owned, identity, flags);
}

int is_valid(int listener, uint64_t id) { return ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0; }

/* read_argument(listener, id, tid, address, size): the caller's memory, the id checked after it. bytes, EFAULT or
 * ENOENT. */
PyObject *k_read_argument(ARGS) {
    int tid;
    uint64_t id, address;
    if (arity("read_argument", nargs, 5) < 0 || as_u64(args[1], &id) < 0 || as_int(args[2], &tid) < 0 ||
        as_u64(args[3], &address) < 0) {
        return NULL;
    }
    int listener = as_fd(module, args[0]);
    Py_ssize_t size = listener < 0 ? -1 : PyLong_AsSsize_t(args[4]);
    if (size < 0) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_ValueError, "negative size");
        }
        return NULL;
    }
    PyObject *buffer = PyBytes_FromStringAndSize(NULL, size);
    if (buffer == NULL) {
        return NULL;
    }
    int fault = vm_copy(tid, address, PyBytes_AsString(buffer), (size_t)size, 0);
    int error = !is_valid(listener, id) ? ENOENT : fault ? EFAULT : 0;
    if (error) {
        Py_DECREF(buffer);
        return PyLong_FromLong(error);
    }
    return buffer;
}

/* fetch_sockaddr(pidfd, number, listener, id, tid, address, length): `fetch` and the sockaddr of connect(2) or bind(2)
 * in one step: (Fd, cookie, status flags, bytes), with an errno in place of the bytes (EINVAL for a length that no
 * sockaddr has, EFAULT, ENOENT). */
PyObject *k_fetch_sockaddr(ARGS) {
    int tid, length;
    uint64_t id, address;
    char raw[sizeof(struct sockaddr_storage)];
    if (arity("fetch_sockaddr", nargs, 7) < 0 || as_u64(args[3], &id) < 0 || as_int(args[4], &tid) < 0 ||
        as_u64(args[5], &address) < 0 || as_int(args[6], &length) < 0) {
        return NULL;
    }
    int listener = as_fd(module, args[2]);
    PyObject *fetched = listener < 0 ? NULL : k_fetch(module, args, 2);
    if (fetched == NULL || !PyTuple_Check(fetched)) {
        return fetched;
    }
    int error = length < 0 || length > (int)sizeof raw          ? EINVAL
                : vm_copy(tid, address, raw, (size_t)length, 0) ? EFAULT
                                                                : 0;
    if (error != EINVAL && !is_valid(listener, id)) {
        error = ENOENT;
    }
    PyObject *data = error ? PyLong_FromLong(error) : PyBytes_FromStringAndSize(raw, length);
    PyObject *result = PyTuple_New(4);
    if (data == NULL || result == NULL) {
        Py_XDECREF(data);
        Py_XDECREF(result);
        Py_DECREF(fetched);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < 3; i++) {
        PyObject *item = PyTuple_GetItem(fetched, i);
        Py_INCREF(item);
        PyTuple_SetItem(result, i, item);
    }
    PyTuple_SetItem(result, 3, data);
    Py_DECREF(fetched);
    return result;
}

/* A value-result pair, as move_addr_to_user() writes it. 0, EFAULT, EINVAL (a negative length), or ENOENT: the caller
 * is gone. */
int write_pair(int listener, uint64_t id, int tid, uint64_t address, uint64_t length_address, const void *data,
               int32_t length) {
    int32_t room = 0;
    int fault = vm_copy(tid, length_address, &room, sizeof room, 0);
    if (!is_valid(listener, id)) {
        return ENOENT;
    }
    if (fault) {
        return EFAULT;
    }
    if (room < 0) {
        return EINVAL;
    }
    size_t size = (size_t)(room < length ? room : length);
    return vm_write_both(tid, address, data, size, length_address, &length, sizeof length) ? EFAULT : 0;
}

PyObject *k_write_result(ARGS) {
    int tid;
    uint64_t id, address, length_address;
    char *data;
    Py_ssize_t size;
    if (arity("write_result", nargs, 6) < 0 || as_u64(args[1], &id) < 0 || as_int(args[2], &tid) < 0 ||
        as_u64(args[3], &address) < 0 || as_u64(args[4], &length_address) < 0 || as_bytes(args[5], &data, &size) < 0) {
        return NULL;
    }
    int listener = as_fd(module, args[0]);
    if (listener < 0) {
        return NULL;
    }
    return PyLong_FromLong(write_pair(listener, id, tid, address, length_address, data, (int32_t)size));
}

/* epoll_has(tid, epoll, number): is anything registered under that number? One call, however many registrations. */
PyObject *k_epoll_has(ARGS) {
    int tid, epoll, number;
    (void)module;
    if (arity("epoll_has", nargs, 3) < 0 || as_int(args[0], &tid) < 0 || as_int(args[1], &epoll) < 0 ||
        as_int(args[2], &number) < 0) {
        return NULL;
    }
    struct { /* struct kcmp_epoll_slot, which old headers lack */
        uint32_t efd, tfd, toff;
    } slot = {(uint32_t)epoll, (uint32_t)number, 0};
    /* Comparing any file with the registered one: what matters is whether there is one. */
    long result = syscall(SYS_kcmp, tid, tid, KCMP_EPOLL_TFD_TYPE, (unsigned long)epoll, &slot);
    return PyBool_FromLong(result >= 0);
}

/* same_file(tid, number, other): does another process have the very file under the same number? kcmp(2) */
PyObject *k_same_file(ARGS) {
    int tid, number, other;
    (void)module;
    if (arity("same_file", nargs, 3) < 0 || as_int(args[0], &tid) < 0 || as_int(args[1], &number) < 0 ||
        as_int(args[2], &other) < 0) {
        return NULL;
    }
    return PyBool_FromLong(syscall(SYS_kcmp, tid, other, KCMP_FILE_TYPE, (long)number, (long)number) == 0);
}

/* open_elsewhere(fd): closes fd; tells whether its file lives on because somebody else holds it.
 *
 * The kernel tells no one how many references a file has, but an epoll forgets a file with its last one. An unconnected
 * stream socket always reports EPOLLHUP, so an event after our close means: still there. */
PyObject *k_open_elsewhere(ARGS) {
    if (arity("open_elsewhere", nargs, 1) < 0 || as_fd(module, args[0]) < 0) {
        return NULL;
    }
    if (Py_TYPE(args[0]) != state_of(module)->fd_type) {
        PyErr_SetString(PyExc_TypeError, "open_elsewhere closes what it is given: an Fd");
        return NULL;
    }
    FdObject *owner = (FdObject *)args[0];
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    struct epoll_event event = {.events = EPOLLHUP | EPOLLIN | EPOLLOUT};
    int result = epoll_ctl(epoll, EPOLL_CTL_ADD, owner->fd, &event);
    int error = errno;
    enter();
    close(owner->fd);
    leave();
    owner->fd = -1;
    if (result == 0) {
        result = epoll_wait(epoll, &event, 1, 0);
        error = errno;
    }
    close(epoll);
    if (result < 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyBool_FromLong(result);
}

/* epoll_add_at(pidfd, epoll, number, fd, events, data): register fd in another process' epoll under that process'
 * number.
 *
 * An epoll knows a registration by file *and* number, so the file must stand at the same number in the table of whoever
 * adds it: a child with a table of its own (vfork copies it, clone(CLONE_FILES) would not) puts it there. */
PyObject *k_epoll_add_at(ARGS) {
    int epoll_number, number;
    uint64_t events, data;
    if (arity("epoll_add_at", nargs, 6) < 0 || as_int(args[1], &epoll_number) < 0 || as_int(args[2], &number) < 0 ||
        as_u64(args[4], &events) < 0 || as_u64(args[5], &data) < 0) {
        return NULL;
    }
    int pidfd = as_fd(module, args[0]);
    int fd = pidfd < 0 ? -1 : as_fd(module, args[3]);
    if (fd < 0) {
        return NULL;
    }
    int epoll = (int)syscall(SYS_pidfd_getfd, pidfd, epoll_number, 0);
    if (epoll < 0) {
        return PyLong_FromLong(errno);
    }
    struct epoll_event event = {.events = (uint32_t)events, .data.u64 = data};
    volatile int error = 0;
    pid_t child = vfork();
    if (child == 0) {
        volatile int ours = epoll;
        if (ours == number) {
            ours = fcntl(epoll, F_DUPFD_CLOEXEC, number + 1);
        }
        if (ours < 0 || (fd != number && dup2(fd, number) < 0) || epoll_ctl(ours, EPOLL_CTL_ADD, number, &event) < 0) {
            error = errno;
        }
        _exit(0);
    }
    if (child < 0) {
        error = errno;
    } else {
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    close(epoll);
    return PyLong_FromLong(error);
}

/* signal_fd(one, other): a descriptor that is readable when one of the signals has come; every signal is blocked from
 * now on. One that is delivered while an ADDFD|SEND waits for the caller takes the descriptor back and leaves the
 * reply: the caller's accept(2) or socket(2) would return 0 (seccomp_notify_addfd() in kernel/seccomp.c). signalfd(2).
 */
PyObject *k_signal_fd(ARGS) {
    sigset_t all, wanted;
    sigfillset(&all);
    sigdelset(&all, SIGRTMAX); /* comes at no such time: patience.c */
    sigemptyset(&wanted);
    int one, other;
    if (arity("signal_fd", nargs, 2) < 0 || as_int(args[0], &one) < 0 || as_int(args[1], &other) < 0) {
        return NULL;
    }
    sigaddset(&wanted, one);
    sigaddset(&wanted, other);
    if (sigprocmask(SIG_BLOCK, &all, NULL) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return fd_result(module, signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK));
}
