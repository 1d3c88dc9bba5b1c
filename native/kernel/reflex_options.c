/* getsockopt(2), setsockopt(2): what was asked before. */
#include "reflex.h"

enum { SO_ORIGINAL = 80 }; /* SO_ORIGINAL_DST, IP6T_SO_ORIGINAL_DST: linux/netfilter_ipv4.h */

/* A question about an option, as switch/options.py writes it down: what was set before (the dictionary itself, which
 * whoever remembers the question keeps alive), and what else the answer depends on. */
struct __attribute__((packed)) question {
    uint64_t options;
    int32_t family, state, level, name, value; /* setsockopt: the value; getsockopt: the room for it */
};

enum { UP = 1, BOUND = 2, HALF_CLOSED = 4 };

/* An accepted connection that nobody has asked Python about: its entry, made from its listener's. Borrowed; NULL where
 * it is none, or with an exception set. */
static SockObject *recall(ReflexObject *self, int listener, int fd, uint64_t cookie) {
    struct ends ends;
    PyObject *app = look_up(self->apps, (uint64_t)listener);
    if (app == NULL || self->succeeded || read_ends(self, fd, &ends) <= 0 || ends.parent == NULL) {
        return NULL;
    }
    struct sockaddr_un peer;
    socklen_t size = sizeof peer;
    if (getpeername(fd, (struct sockaddr *)&peer, &size) < 0 ||
        size != offsetof(struct sockaddr_un, sun_path) + NAME_SIZE) {
        return NULL;
    }
    return add_accepted(self, app, ends.parent, cookie, &peer);
}

/* The entry of the socket that an option is about: 1, or as above. `fd` is open only then. */
static int find_for_option(PyObject *module, ReflexObject *self, int listener, const struct seccomp_notif *n, int *fd,
                           SockObject **sock) {
    uint64_t cookie;
    int status = fetch(module, self, n, fd, &cookie);
    if (status <= 0) {
        return status;
    }
    *sock = (SockObject *)look_up(self->sockets, cookie);
    if (*sock == NULL && !PyErr_Occurred()) {
        *sock = recall(self, listener, *fd, cookie);
    }
    if (*sock == NULL || !(*sock)->unix_file || ((*sock)->phase != NEW && !is_up(*sock))) {
        close_soon(*fd, 1);
        return unknown();
    }
    return 1;
}

static struct question question_of(const SockObject *sock, const struct seccomp_notif *n, int value) {
    int bound = sock->bound != NULL && sock->bound != Py_None;
    return (struct question){.options = (uint64_t)(uintptr_t)sock->options,
                             .family = sock->family,
                             .state = (is_up(sock) ? UP : 0) | (bound ? BOUND : 0),
                             .level = (int)n->data.args[1],
                             .name = (int)n->data.args[2],
                             .value = value};
}

/* An option of a socket that is not connected: if we die now, this is all that tells of it. */
static void note_set(Py_buffer *journal, long long cookie, const struct question *question) {
    if (journal->len >= (Py_ssize_t)(SETS_AT + (1 + SETS) * sizeof(struct written))) {
        struct written *ring = (struct written *)(void *)((char *)journal->buf + SETS_AT);
        ring[1 + ring[0].cookie++ % SETS] =
            (struct written){(uint64_t)cookie, question->level, question->name, question->value, 0};
    }
}

/* Python notes it, with others, when it has time. */
static int touch(ReflexObject *self, SockObject *sock, PyObject **event) {
    int first = PyDict_Size(self->touched) == 0;
    PyObject *key = PyLong_FromLongLong(sock->cookie);
    int status = key == NULL ? -1 : PyDict_SetItem(self->touched, key, (PyObject *)sock);
    Py_XDECREF(key);
    if (status < 0 || !first || self->on_touch == NULL) {
        return status < 0 ? -1 : 1;
    }
    *event = PyTuple_Pack(1, self->on_touch);
    return *event == NULL ? -1 : 1;
}

int serve_set_option(PyObject *module, ReflexObject *self, int listener, const struct seccomp_notif *n,
                     Py_buffer *journal, PyObject **event) {
    int fd, value;
    SockObject *sock;
    if ((int)n->data.args[4] != sizeof value || PyDict_Size(self->steps) == 0) {
        return 0;
    }
    int status = find_for_option(module, self, listener, n, &fd, &sock);
    if (status <= 0) {
        return status;
    }
    close_guarded(fd);
    if (vm_copy((int)n->pid, n->data.args[3], &value, sizeof value, 0) || !is_valid(listener, n->id)) {
        return 0;
    }
    struct question question = question_of(sock, n, value);
    PyObject *step = look_up_bytes(self->steps, &question, sizeof question); /* (options before, options after) */
    if (step == NULL) {
        return unknown();
    }
    replace(&sock->options, PyTuple_GetItem(step, 1));
    if (question.state & UP) {
        reply_value(listener, n->id, 0, 0);
        return 1;
    }
    note_set(journal, sock->cookie, &question);
    reply_value(listener, n->id, 0, 0);
    return touch(self, sock, event);
}

/* SO_ORIGINAL_DST of a connection that was led here: where its client wanted to go. */
static int serve_original(ReflexObject *self, int fd, int listener, const struct seccomp_notif *n, int room) {
    struct ends ends;
    union peer_address shown;
    int family = (int)n->data.args[1] == IPPROTO_IPV6 ? AF_INET6 : AF_INET;
    int status = read_ends(self, fd, &ends);
    if (status <= 0 || ends.parent == NULL || ends.link.server_size != (family == AF_INET ? 4 : 16)) {
        return status < 0 ? -1 : 0;
    }
    PyObject *local = own_name(self, &ends);
    char *data;
    Py_ssize_t size;
    if (local == NULL || as_bytes(local, &data, &size) < 0) {
        return unknown();
    }
    socklen_t length =
        shown_address(ends.link.server_ip, ends.link.server_size, ends.link.server_port, ends.parent->family, &shown);
    if (length == (socklen_t)size && memcmp(&shown, data, length) == 0) {
        return 0; /* led nowhere */
    }
    length = shown_address(ends.link.server_ip, ends.link.server_size, ends.link.server_port, family, &shown);
    return room < (int)length ? 0 : tell(listener, n, n->data.args[3], n->data.args[4], &shown, length);
}

int serve_get_option(PyObject *module, ReflexObject *self, int listener, const struct seccomp_notif *n) {
    int fd, room, level = (int)n->data.args[1], name = (int)n->data.args[2];
    SockObject *sock;
    if (vm_copy((int)n->pid, n->data.args[4], &room, sizeof room, 0) || room < 0 || !is_valid(listener, n->id)) {
        return 0;
    }
    int status = find_for_option(module, self, listener, n, &fd, &sock);
    if (status <= 0) {
        return status;
    }
    if (name == SO_ORIGINAL && level != SOL_SOCKET) {
        status = sock->accepted ? serve_original(self, fd, listener, n, room) : 0;
        close_guarded(fd);
        return status;
    }
    struct question question = question_of(sock, n, room);
    if (level == IPPROTO_TCP && name == TCP_INFO && question.state & UP && is_half_closed(fd)) {
        question.state |= HALF_CLOSED;
    }
    close_guarded(fd);
    PyObject *answer = look_up_bytes(self->answers, &question, sizeof question); /* (options, value) */
    char *data;
    Py_ssize_t size;
    if (answer == NULL || as_bytes(PyTuple_GetItem(answer, 1), &data, &size) < 0) {
        return unknown();
    }
    uint32_t length = (uint32_t)size;
    int fault =
        vm_write_both((int)n->pid, n->data.args[3], data, (size_t)size, n->data.args[4], &length, sizeof length);
    reply_value(listener, n->id, 0, fault ? EFAULT : 0);
    return 1;
}
