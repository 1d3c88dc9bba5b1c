/* What sockets there are: sock_diag(7). */
#include "kernel.h"

/* Asks `netlink`, or with -1 a socket made for it. */
static int netlink_dump(int netlink, const void *request, size_t size, PyObject *rows,
                        int (*row)(const struct nlmsghdr *, PyObject *)) {
    int fd = netlink < 0 ? socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG) : netlink;
    if (fd < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    static _Alignas(struct nlmsghdr) char buffer[32768]; /* the GIL is held throughout */
    int status = -1;
    if (send(fd, request, size, 0) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        goto out;
    }
    for (;;) {
        ssize_t got = recv(fd, buffer, sizeof buffer, 0);
        if (got < 0) {
            if (errno == EINTR) {
                continue;
            }
            PyErr_SetFromErrno(PyExc_OSError);
            goto out;
        }
        size_t left = (size_t)got;
        for (struct nlmsghdr *h = (struct nlmsghdr *)buffer; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
            if (h->nlmsg_type == NLMSG_DONE) {
                status = 0;
                goto out;
            }
            if (h->nlmsg_type == NLMSG_ERROR) {
                errno = -((struct nlmsgerr *)NLMSG_DATA(h))->error;
                PyErr_SetFromErrno(PyExc_OSError);
                goto out;
            }
            if (row(h, rows) < 0) {
                goto out;
            }
        }
    }
out:
    if (netlink < 0) {
        close(fd);
    }
    return status;
}

/* The payload of the first attribute of a type, and its size; NULL when there is none. netlink(7) */
static const void *attribute(const struct nlmsghdr *h, size_t header, uint16_t type, size_t *size) {
    const char *at = (const char *)h + NLMSG_SPACE(header), *end = (const char *)h + h->nlmsg_len;
    while (end - at >= (ptrdiff_t)sizeof(struct nlattr)) {
        const struct nlattr *a = (const struct nlattr *)at;
        if (a->nla_len < sizeof *a || a->nla_len > end - at) {
            break;
        }
        if (a->nla_type == type) {
            *size = a->nla_len - sizeof *a;
            return a + 1;
        }
        at += NLA_ALIGN(a->nla_len);
    }
    return NULL;
}

static int append_row(PyObject *rows, PyObject *row) {
    int status = row == NULL ? -1 : PyList_Append(rows, row);
    Py_XDECREF(row);
    return status;
}

static int unix_row(const struct nlmsghdr *h, PyObject *rows) {
    const struct unix_diag_msg *m = NLMSG_DATA(h);
    const char *name = "";
    size_t name_size = 0;
    uint32_t queued = 0, peer = 0;
    size_t left = h->nlmsg_len - NLMSG_LENGTH(sizeof *m);
    const struct nlattr *a = (const struct nlattr *)(m + 1);
    while (left >= sizeof *a && a->nla_len >= sizeof *a && a->nla_len <= left) {
        const char *payload = (const char *)(a + 1);
        size_t payload_size = a->nla_len - sizeof *a;
        if (a->nla_type == UNIX_DIAG_NAME) {
            name = payload;
            name_size = payload_size;
        } else if (a->nla_type == UNIX_DIAG_RQLEN && payload_size >= sizeof(struct unix_diag_rqlen)) {
            queued = ((const struct unix_diag_rqlen *)payload)->udiag_rqueue;
        } else if (a->nla_type == UNIX_DIAG_PEER && payload_size >= sizeof peer) {
            memcpy(&peer, payload, sizeof peer);
        }
        size_t step = NLA_ALIGN(a->nla_len);
        if (step > left) {
            break;
        }
        left -= step;
        a = (const struct nlattr *)((const char *)a + step);
    }
    uint64_t cookie = m->udiag_cookie[0] | (uint64_t)m->udiag_cookie[1] << 32;
    return append_row(rows, Py_BuildValue("(KkiiIky#)", (unsigned long long)cookie, (unsigned long)m->udiag_ino,
                                          (int)m->udiag_type, (int)m->udiag_state, queued, (unsigned long)peer, name,
                                          (Py_ssize_t)name_size));
}

PyObject *k_dump_unix(ARGS) {
    int states;
    (void)module;
    if (arity("dump_unix", nargs, 1) < 0 || as_int(args[0], &states) < 0) {
        return NULL;
    }
    struct {
        struct nlmsghdr header;
        struct unix_diag_req request;
    } message = {
        .header = {.nlmsg_len = sizeof message,
                   .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .request = {.sdiag_family = AF_UNIX,
                    .udiag_states = (uint32_t)states,
                    .udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_RQLEN | UDIAG_SHOW_PEER},
    };
    PyObject *rows = PyList_New(0);
    if (rows != NULL && netlink_dump(-1, &message, sizeof message, rows, unix_row) < 0) {
        Py_DECREF(rows);
        return NULL;
    }
    return rows;
}

/* Whether the one socket that is asked for is still there. One question, one answer: the kernel lists no others. */
static PyObject *is_there(const void *question, size_t size) {
    _Alignas(struct nlmsghdr) char answer[1024];
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    if (fd < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    ssize_t got = send(fd, question, size, 0) < 0 ? -1 : recv(fd, answer, sizeof answer, 0);
    int error = errno;
    close(fd);
    const struct nlmsghdr *h = (const struct nlmsghdr *)answer;
    if (got < (ssize_t)sizeof *h) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (h->nlmsg_type != NLMSG_ERROR) {
        Py_RETURN_TRUE;
    }
    error = -((const struct nlmsgerr *)NLMSG_DATA(h))->error;
    if (error == ENOENT || error == ESTALE) { /* none with this inode or these addresses; another socket's by now */
        Py_RETURN_FALSE;
    }
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

/* is_listed(inode, cookie): of a Unix socket of our network namespace. */
PyObject *k_is_listed(ARGS) {
    uint64_t inode, cookie;
    (void)module;
    if (arity("is_listed", nargs, 2) < 0 || as_u64(args[0], &inode) < 0 || as_u64(args[1], &cookie) < 0) {
        return NULL;
    }
    struct {
        struct nlmsghdr header;
        struct unix_diag_req request;
    } message = {
        .header = {.nlmsg_len = sizeof message, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
        .request = {.sdiag_family = AF_UNIX,
                    .udiag_states = ~0U,
                    .udiag_ino = (uint32_t)inode,
                    .udiag_cookie = {(uint32_t)cookie, (uint32_t)(cookie >> 32)}},
    };
    return is_there(&message, sizeof message);
}

/* An IP address and port as sock_diag(7) has them. 0 or, of what is no such sockaddr, -1. */
static int diag_address(PyObject *object, int *family, uint32_t *ip, uint16_t *port) {
    char *raw;
    Py_ssize_t size;
    struct sockaddr_in6 address = {0};
    if (as_bytes(object, &raw, &size) < 0) {
        return -1;
    }
    memcpy(&address, raw, (size_t)size < sizeof address ? (size_t)size : sizeof address);
    *family = address.sin6_family;
    *port = address.sin6_port; /* at the same place in both: ip(7), ipv6(7) */
    if (*family == AF_INET6) {
        memcpy(ip, &address.sin6_addr, sizeof address.sin6_addr);
    } else {
        memcpy(ip, &((struct sockaddr_in *)&address)->sin_addr, sizeof(struct in_addr));
    }
    return 0;
}

/* is_connected(cookie, own, peer): of a TCP connection of our network namespace, by its sockaddrs. */
PyObject *k_is_connected(ARGS) {
    uint64_t cookie;
    int family, peers;
    struct {
        struct nlmsghdr header;
        struct inet_diag_req_v2 request;
    } message = {
        .header = {.nlmsg_len = sizeof message, .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
        .request = {.sdiag_protocol = IPPROTO_TCP, .idiag_states = ~0U},
    };
    struct inet_diag_sockid *id = &message.request.id;
    (void)module;
    if (arity("is_connected", nargs, 3) < 0 || as_u64(args[0], &cookie) < 0 ||
        diag_address(args[1], &family, id->idiag_src, &id->idiag_sport) < 0 ||
        diag_address(args[2], &peers, id->idiag_dst, &id->idiag_dport) < 0) {
        return NULL;
    }
    if (family != peers || (family != AF_INET && family != AF_INET6)) {
        Py_RETURN_FALSE;
    }
    message.request.sdiag_family = (uint8_t)family;
    id->idiag_cookie[0] = (uint32_t)cookie;
    id->idiag_cookie[1] = (uint32_t)(cookie >> 32);
    return is_there(&message, sizeof message);
}

/* list_begin(family, states): ask for all sockets, Unix ones or those of TCP. A netlink socket that tells of them, some
 * at a time, so that nobody has to wait for the end of a long list: it is ready when there are more. */
PyObject *k_list_begin(ARGS) {
    int family, states;
    if (arity("list_begin", nargs, 2) < 0 || as_int(args[0], &family) < 0 || as_int(args[1], &states) < 0) {
        return NULL;
    }
    struct nlmsghdr header = {.nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP};
    struct unix_diag_req of_unix = {.sdiag_family = AF_UNIX, .udiag_states = (uint32_t)states};
    struct inet_diag_req_v2 of_tcp = {
        .sdiag_family = (uint8_t)family, .sdiag_protocol = IPPROTO_TCP, .idiag_states = (uint32_t)states};
    struct iovec parts[] = {{&header, sizeof header}, {&of_unix, sizeof of_unix}};
    if (family != AF_UNIX) {
        parts[1] = (struct iovec){&of_tcp, sizeof of_tcp};
    }
    header.nlmsg_len = (uint32_t)(parts[0].iov_len + parts[1].iov_len);
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
    if (fd < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    if (writev(fd, parts, 2) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        close(fd);
        return NULL;
    }
    return fd_wrap(state_of(module)->fd_type, fd);
}

/* list_more(list): the cookies of some more of them; None when there are no more. */
PyObject *k_list_more(ARGS) {
    static _Alignas(struct nlmsghdr) char buffer[32768]; /* the GIL is held throughout */
    if (arity("list_more", nargs, 1) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    if (fd < 0) {
        return NULL;
    }
    ssize_t got = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (got < 0 && errno != EAGAIN && errno != EINTR) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *cookies = PyList_New(0);
    size_t left = got < 0 ? 0 : (size_t)got;
    for (struct nlmsghdr *h = (struct nlmsghdr *)buffer; cookies != NULL && NLMSG_OK(h, left);
         h = NLMSG_NEXT(h, left)) {
        if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR) {
            Py_DECREF(cookies);
            if (h->nlmsg_type == NLMSG_DONE) {
                Py_RETURN_NONE;
            }
            errno = -((struct nlmsgerr *)NLMSG_DATA(h))->error;
            return PyErr_SetFromErrno(PyExc_OSError);
        }
        const struct unix_diag_msg *u = NLMSG_DATA(h);
        const struct inet_diag_msg *i = NLMSG_DATA(h);
        const uint32_t *cookie = u->udiag_family == AF_UNIX ? u->udiag_cookie : i->id.idiag_cookie;
        if (append_row(cookies, PyLong_FromUnsignedLongLong(cookie[0] | (uint64_t)cookie[1] << 32)) < 0) {
            Py_CLEAR(cookies);
        }
    }
    return cookies;
}

/* struct inet_diag_sockopt as the number that its two bytes make, and IPV6_V6ONLY as its bit 16; what the kernel does
 * not tell is 0 (before 5.10; IPV6_V6ONLY of sockets with a peer). */
static int inet_options(const struct nlmsghdr *h) {
    const struct inet_diag_msg *m = NLMSG_DATA(h);
    int options = 0;
    size_t left = h->nlmsg_len - NLMSG_LENGTH(sizeof *m);
    const struct nlattr *a = (const struct nlattr *)(m + 1);
    while (left >= sizeof *a && a->nla_len >= sizeof *a && a->nla_len <= left) {
        const unsigned char *payload = (const unsigned char *)(a + 1);
        size_t size = a->nla_len - sizeof *a;
        if (a->nla_type == INET_DIAG_SOCKOPT && size >= 2) {
            options |= payload[0] | payload[1] << 8;
        } else if (a->nla_type == INET_DIAG_SKV6ONLY && size >= 1) {
            options |= (payload[0] != 0) << 16;
        }
        size_t step = NLA_ALIGN(a->nla_len);
        if (step > left) {
            break;
        }
        left -= step;
        a = (const struct nlattr *)((const char *)a + step);
    }
    return options;
}

static int inet_row(const struct nlmsghdr *h, PyObject *rows) {
    const struct inet_diag_msg *m = NLMSG_DATA(h);
    uint64_t cookie = m->id.idiag_cookie[0] | (uint64_t)m->id.idiag_cookie[1] << 32;
    Py_ssize_t size = m->idiag_family == AF_INET ? 4 : 16;
    return append_row(rows, Py_BuildValue("(Kkiiy#iy#ii)", (unsigned long long)cookie, (unsigned long)m->idiag_inode,
                                          (int)m->idiag_family, (int)m->idiag_state, (const char *)m->id.idiag_src,
                                          size, (int)ntohs(m->id.idiag_sport), (const char *)m->id.idiag_dst, size,
                                          (int)ntohs(m->id.idiag_dport), inet_options(h)));
}

static PyObject *inet_dump(struct inet_diag_req_v2 request, int netlink,
                           int (*row)(const struct nlmsghdr *, PyObject *)) {
    struct {
        struct nlmsghdr header;
        struct inet_diag_req_v2 request;
    } message = {
        .header = {.nlmsg_len = sizeof message,
                   .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .request = request,
    };
    PyObject *rows = PyList_New(0);
    if (rows != NULL && netlink_dump(netlink, &message, sizeof message, rows, row) < 0) {
        Py_DECREF(rows);
        return NULL;
    }
    return rows;
}

/* dump_inet(family, protocol, states[, netlink[, port]]): of our network namespace, or of that of the netlink socket
 * given; those with a source port, if it is not 0. */
PyObject *k_dump_inet(ARGS) {
    int family, protocol, states, netlink = -1, port = 0;
    if ((nargs != 4 && nargs != 5 && arity("dump_inet", nargs, 3) < 0) || as_int(args[0], &family) < 0 ||
        as_int(args[1], &protocol) < 0 || as_int(args[2], &states) < 0 ||
        (nargs >= 4 && (netlink = as_fd(module, args[3])) < 0) || (nargs == 5 && as_int(args[4], &port) < 0)) {
        return NULL;
    }
    struct inet_diag_req_v2 request = {.sdiag_family = (uint8_t)family,
                                       .sdiag_protocol = (uint8_t)protocol,
                                       .idiag_states = (uint32_t)states,
                                       .id.idiag_sport = htons((uint16_t)port)};
    return inet_dump(request, netlink, inet_row);
}

/* A kernel's struct tcp_info may be shorter or longer than ours: what it does not have is 0. tcp(7) */
static int tcp_row(const struct nlmsghdr *h, PyObject *rows) {
    const struct inet_diag_msg *m = NLMSG_DATA(h);
    uint64_t cookie = m->id.idiag_cookie[0] | (uint64_t)m->id.idiag_cookie[1] << 32;
    struct tcp_info info = {0};
    size_t size = 0;
    const void *found = attribute(h, sizeof *m, INET_DIAG_INFO, &size);
    if (found == NULL) {
        return 0; /* closed in this moment */
    }
    memcpy(&info, found, size < sizeof info ? size : sizeof info);
    return append_row(rows, Py_BuildValue("(KKKII)", (unsigned long long)cookie,
                                          (unsigned long long)(info.tcpi_bytes_sent - info.tcpi_bytes_retrans),
                                          (unsigned long long)info.tcpi_bytes_received, info.tcpi_rtt,
                                          info.tcpi_total_retrans));
}

/* dump_tcp_info(family, states): what TCP has counted for each socket of our network namespace. */
PyObject *k_dump_tcp_info(ARGS) {
    int family, states;
    (void)module;
    if (arity("dump_tcp_info", nargs, 2) < 0 || as_int(args[0], &family) < 0 || as_int(args[1], &states) < 0) {
        return NULL;
    }
    struct inet_diag_req_v2 request = {.sdiag_family = (uint8_t)family,
                                       .sdiag_protocol = IPPROTO_TCP,
                                       .idiag_ext = 1 << (INET_DIAG_INFO - 1),
                                       .idiag_states = (uint32_t)states};
    return inet_dump(request, -1, tcp_row);
}
