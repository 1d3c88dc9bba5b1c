/* UDP sockets. udp(7), ip(7), ipv6(7). */
#include "kernel.h"
#include <linux/filter.h>
#include <netinet/udp.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

/* receive(fd): the next datagram, (data, source sockaddr, destination address), or a negative errno; never waits. The
 * destination (4 or 16 bytes) is empty unless IP_PKTINFO or IPV6_RECVPKTINFO is set. */
PyObject *k_receive(ARGS) {
    static char data[65536];
    struct sockaddr_storage source;
    union {
        struct cmsghdr header;
        char bytes[256];
    } control;
    if (arity("receive", nargs, 1) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    if (fd < 0) {
        return NULL;
    }
    struct iovec vector = {data, sizeof data};
    struct msghdr message = {.msg_name = &source,
                             .msg_namelen = sizeof source,
                             .msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    ssize_t size = recvmsg(fd, &message, MSG_DONTWAIT);
    if (size < 0) {
        return PyLong_FromLong(-errno);
    }
    const void *to = "";
    Py_ssize_t to_size = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c != NULL; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            to = &((struct in_pktinfo *)CMSG_DATA(c))->ipi_addr;
            to_size = 4;
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            to = &((struct in6_pktinfo *)CMSG_DATA(c))->ipi6_addr;
            to_size = 16;
        }
    }
    return Py_BuildValue("(y#y#y#)", data, (Py_ssize_t)size, (char *)&source, (Py_ssize_t)message.msg_namelen, to,
                         to_size);
}

/* send_to(fd, data, destination sockaddr, control, flags): bytes sent or a negative errno. An empty destination is the
 * peer; `control` is what goes into msg_control. */
PyObject *k_send_to(ARGS) {
    char *data, *address, *control;
    Py_ssize_t size, address_size, control_size;
    int flags;
    if (arity("send_to", nargs, 5) < 0 || as_bytes(args[1], &data, &size) < 0 ||
        as_bytes(args[2], &address, &address_size) < 0 || as_bytes(args[3], &control, &control_size) < 0 ||
        as_int(args[4], &flags) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    if (fd < 0) {
        return NULL;
    }
    struct iovec vector = {data, (size_t)size};
    struct msghdr message = {.msg_name = address_size ? address : NULL,
                             .msg_namelen = (socklen_t)address_size,
                             .msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = control_size ? control : NULL,
                             .msg_controllen = (size_t)control_size};
    ssize_t sent = sendmsg(fd, &message, flags | MSG_DONTWAIT | MSG_NOSIGNAL);
    return PyLong_FromSsize_t(sent < 0 ? -errno : sent);
}

/* What an app may have set on a UDP socket, and what goes with it to the one that takes its place: nothing that needs a
 * privilege, since the switch may have one that the app lacks. */
static const struct {
    int level, name;
} carried[] = {
    {SOL_SOCKET, SO_REUSEADDR},
    {SOL_SOCKET, SO_REUSEPORT},
    {SOL_SOCKET, SO_BROADCAST},
    {SOL_SOCKET, SO_TIMESTAMP},
    {SOL_SOCKET, SO_TIMESTAMPNS},
    {SOL_SOCKET, SO_RXQ_OVFL},
    {SOL_SOCKET, SO_PEEK_OFF},
    {IPPROTO_IP, IP_TOS},
    {IPPROTO_IP, IP_TTL},
    {IPPROTO_IP, IP_PKTINFO},
    {IPPROTO_IP, IP_RECVTTL},
    {IPPROTO_IP, IP_RECVTOS},
    {IPPROTO_IP, IP_RECVERR},
    {IPPROTO_IP, IP_MTU_DISCOVER},
    {IPPROTO_IP, IP_RECVORIGDSTADDR},
    {IPPROTO_IP, IP_MULTICAST_TTL},
    {IPPROTO_IP, IP_MULTICAST_LOOP},
    {IPPROTO_IPV6, IPV6_V6ONLY},
    {IPPROTO_IPV6, IPV6_UNICAST_HOPS},
    {IPPROTO_IPV6, IPV6_RECVPKTINFO},
    {IPPROTO_IPV6, IPV6_RECVHOPLIMIT},
    {IPPROTO_IPV6, IPV6_RECVTCLASS},
    {IPPROTO_IPV6, IPV6_TCLASS},
    {IPPROTO_IPV6, IPV6_RECVERR},
    {IPPROTO_IPV6, IPV6_MTU_DISCOVER},
    {IPPROTO_IPV6, IPV6_DONTFRAG},
    {IPPROTO_IPV6, IPV6_MULTICAST_HOPS},
    {IPPROTO_IPV6, IPV6_MULTICAST_LOOP},
    {IPPROTO_UDP, UDP_CORK},
    {IPPROTO_UDP, UDP_SEGMENT},
    {IPPROTO_UDP, UDP_GRO},
};

/* inherit_datagram(from, to): both of one family. What is as on a fresh socket is left alone. */
PyObject *k_inherit_datagram(ARGS) {
    if (arity("inherit_datagram", nargs, 2) < 0) {
        return NULL;
    }
    int from = as_fd(module, args[0]);
    int to = from < 0 ? -1 : as_fd(module, args[1]);
    if (to < 0) {
        return NULL;
    }
    inherit(from, to);
    for (size_t i = 0; i < sizeof carried / sizeof *carried; i++) {
        int now = 0, fresh = 0;
        socklen_t now_size = sizeof now, fresh_size = sizeof fresh;
        if (getsockopt(from, carried[i].level, carried[i].name, &now, &now_size) == 0 &&
            getsockopt(to, carried[i].level, carried[i].name, &fresh, &fresh_size) == 0 && now != fresh) {
            setsockopt(to, carried[i].level, carried[i].name, &now, now_size);
        }
    }
    Py_RETURN_NONE;
}

/* attach_filter(fd, struct sock_filter[]): 0 or errno. */
PyObject *k_attach_filter(ARGS) {
    char *code;
    Py_ssize_t size;
    if (arity("attach_filter", nargs, 2) < 0 || as_bytes(args[1], &code, &size) < 0) {
        return NULL;
    }
    int fd = as_fd(module, args[0]);
    if (fd < 0) {
        return NULL;
    }
    struct sock_fprog program = {.len = (unsigned short)(size / (Py_ssize_t)sizeof(struct sock_filter)),
                                 .filter = (struct sock_filter *)code};
    return errno_result(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
}
