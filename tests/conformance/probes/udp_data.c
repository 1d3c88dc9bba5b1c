/* UDP's data: sending and receiving in all their forms, control messages, errors. */
#include "udp.h"
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#define UDP_GRO 104
#endif

static char big[70000];

/* Two sockets: [0] connected to [1], which is bound and has no peer. */
static void both(int ends[2]) {
    ends[1] = udp_at(at(0));
    ends[0] = udp();
    MUST(CONNECT(ends[0], at(port_of(ends[1]))));
}

static void arrived(int fd) {
    if (!poll_one(fd, POLLIN, 4000))
        die("nothing came");
}

PROBE(send_errors) {
    int fd = udp(), server = udp_at(at(0));
    addr_t to = at(port_of(server));
    TRY(send(fd, "x", 1, 0));
    TRY(write(fd, "x", 1));
    TRY(sendto(fd, "x", 1, 0, NULL, 0));
    TRY(sendto(fd, "x", 1, 0, NULL, 16));
    TRY(sendto(fd, "x", 1, 0, &to.sa, 0));
    TRY(sendto(fd, "x", 1, 0, &to.sa, 1));
    TRY(sendto(fd, "x", 1, 0, &to.sa, to.len - 1));
    TRY(sendto(fd, "x", 1, 0, &to.sa, 200));
    TRY(sendto(fd, "x", 1, 0, &to.sa, -1));
    TRY(sendto(fd, "x", 1, 0, (void *)8, to.len));
    TRY(sendto(fd, (void *)8, 1, 0, &to.sa, to.len));
    TRY(sendto(9999, "x", 1, 0, &to.sa, to.len));
    TRY(sendto(0, "x", 1, 0, &to.sa, to.len));
    TRY(sendto(fd, "x", 1, MSG_OOB, &to.sa, to.len));
    to = at(0);
    AS("port 0", sendto(fd, "x", 1, 0, &to.sa, to.len));
    to.sa.sa_family = 77;
    AS("family 77", sendto(fd, "x", 1, 0, &to.sa, to.len));
    to = at(port_of(server));
    to.sa.sa_family = AF_UNSPEC;
    AS("AF_UNSPEC", sendto(fd, "x", 1, 0, &to.sa, to.len));
    say_received("received", server);
    EVENTS("nothing more", server, POLLIN, 0);
    say_sockname("sockname", fd);
}

PROBE(sizes) {
    int ends[2], server;
    char *in = malloc(sizeof big);
    both(ends);
    server = ends[1];
    addr_t to = at(port_of(server));
    MUST(set(server, SOL_SOCKET, SO_RCVBUF, 400000));
    for (int i = 0; i < (int)sizeof big; i++)
        big[i] = (char)(i * 7 + i / 251);
    int sizes[] = {0, 1, 1472, 9000, 65507 - 1, 65507, 65508, 65527, 65528, 65535, 65536, 70000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int addressed = 0; addressed < 2; addressed++) {
            int size = sizes[i];
            int fd = addressed ? udp() : ends[0];
            long sent = addressed ? sendto(fd, big, size, 0, &to.sa, to.len) : send(fd, big, size, 0);
            say("%d%s: %s", size, addressed ? " addressed" : "", sent == size ? "sent" : name_of_errno(errno));
            if (sent == size) {
                arrived(server);
                addr_t from = {.len = sizeof from.ss};
                long got = recvfrom(server, in, sizeof big, 0, &from.sa, &from.len);
                say("  received %ld from %s, same %d", got, role(&from), got < 0 || memcmp(in, big, got) == 0);
            }
        }
}

PROBE(empty) {
    int ends[2];
    char text[4];
    both(ends);
    TRY(send(ends[0], "", 0, 0));
    arrived(ends[1]);
    say_received("empty", ends[1]);
    TRY(write(ends[0], "", 0));
    TRY(writev(ends[0], NULL, 0));
    struct msghdr message = {0};
    TRY(sendmsg(ends[0], &message, 0));
    EVENTS("poll", ends[1], POLLIN, 4000);
    TRY(recv(ends[1], text, 4, MSG_DONTWAIT));
    TRY(recv(ends[1], text, 4, MSG_DONTWAIT));
    TRY(recv(ends[1], text, 4, MSG_DONTWAIT));
}

PROBE(truncated) {
    int ends[2];
    char text[8] = "";
    struct iovec io = {text, 2};
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1};
    both(ends);
    for (int i = 0; i < 6; i++)
        MUST(send(ends[0], "0123456789", 10, 0));
    arrived(ends[1]);
    TRY(recv(ends[1], text, 4, 0));
    TRY(recv(ends[1], text, 4, MSG_TRUNC));
    TRY(recv(ends[1], text, 4, MSG_TRUNC | MSG_PEEK));
    TRY(recv(ends[1], text, 0, 0));
    TRY(recvmsg(ends[1], &message, 0));
    say("flags %x", message.msg_flags);
    TRY(recvmsg(ends[1], &message, MSG_TRUNC));
    say("flags %x", message.msg_flags);
    TRY(read(ends[1], text, 3));
    say("%.3s", text);
    TRY(recv(ends[1], text, 4, MSG_DONTWAIT));
}

PROBE(peek_and_wait_all) {
    int ends[2];
    char text[16] = "";
    both(ends);
    MUST(send(ends[0], "one", 3, 0));
    MUST(send(ends[0], "two", 3, 0));
    arrived(ends[1]);
    TRY(recv(ends[1], text, 2, MSG_PEEK));
    TRY(recv(ends[1], text, 16, MSG_PEEK));
    TRY(recv(ends[1], text, 16, MSG_WAITALL));
    say("%s", text);
    int off = get(ends[1], SOL_SOCKET, SO_PEEK_OFF), n = -1;
    say("peek offset %d", off);
    TRY(ioctl(ends[1], FIONREAD, &n));
    say("%d there", n);
    TRY(recv(ends[1], text, 16, MSG_WAITALL | MSG_TRUNC));
    TRY(ioctl(ends[1], FIONREAD, &n));
    say("%d there", n);
}

PROBE(dont_wait) {
    int ends[2];
    char text[8];
    addr_t from = {.len = sizeof from.ss};
    struct timeval t = {0, 50000};
    both(ends);
    TRY(recv(ends[1], text, 8, MSG_DONTWAIT));
    TRY(recvfrom(ends[0], text, 8, MSG_DONTWAIT, &from.sa, &from.len));
    MUST(setsockopt(ends[1], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    double start = now();
    TRY(recvfrom(ends[1], text, 8, 0, &from.sa, &from.len));
    double took = now() - start;
    say("waited %d", took >= 0.045 && took < 2);
    MUST(fcntl(ends[1], F_SETFL, O_NONBLOCK));
    TRY(recvfrom(ends[1], text, 8, 0, &from.sa, &from.len));
    TRY(read(ends[1], text, 8));
    int fresh = MUST(socket(family, SOCK_DGRAM | SOCK_NONBLOCK, 0));
    AS("never bound", recv(fresh, text, 8, 0));
    say_sockname("still not bound", fresh);
}

PROBE(blocking_receive) {
    int server = udp_at(at(0)), me = getpid();
    char text[8] = "";
    addr_t from = {.len = sizeof from.ss}, to = at(port_of(server));
    pid_t child = CHILD(until_asleep(me, me); send_to(udp(), "late", to));
    TRY(recvfrom(server, text, 8, 0, &from.sa, &from.len));
    say("%s from %s", text, role(&from));
    join("child", child);
}

PROBE(receive_lies) {
    int ends[2];
    char text[8];
    addr_t from = {.len = 4};
    both(ends);
    for (int i = 0; i < 8; i++)
        MUST(send(ends[0], "abc", 3, 0));
    arrived(ends[1]);
    TRY(recvfrom(ends[1], text, 8, MSG_DONTWAIT, &from.sa, &from.len));
    say("length %d", (int)from.len);
    TRY(recvfrom(ends[1], text, 8, MSG_DONTWAIT, &from.sa, &(socklen_t){-1}));
    TRY(recvfrom(ends[1], text, 8, MSG_DONTWAIT, (void *)8, &(socklen_t){16}));
    TRY(recvfrom(ends[1], text, 8, MSG_DONTWAIT, &from.sa, NULL));
    AS("bad buffer", recv(ends[1], (void *)16, 9, MSG_DONTWAIT));
    TRY(recv(ends[1], text, 8, MSG_OOB | MSG_DONTWAIT));
    TRY(recvfrom(ends[1], text, 8, MSG_DONTWAIT, NULL, NULL));
}

PROBE(messages) {
    int server = udp_at(at(0)), fd = udp();
    char a[3] = "", b[8] = "", control[64];
    addr_t from, to = at(port_of(server));
    struct iovec out[] = {{"he", 2}, {"", 0}, {"llo", 3}}, in[] = {{a, 2}, {b, 7}};
    struct msghdr sending = {.msg_name = &to.ss, .msg_namelen = to.len, .msg_iov = out, .msg_iovlen = 3};
    struct msghdr receiving = {.msg_name = &from.ss,
                               .msg_namelen = sizeof from.ss,
                               .msg_iov = in,
                               .msg_iovlen = 2,
                               .msg_control = control,
                               .msg_controllen = sizeof control};
    TRY(sendmsg(fd, &sending, 0));
    arrived(server);
    TRY(recvmsg(server, &receiving, 0));
    say("%s %s from %s, length %d, flags %x, control %d", a, b, role(&from), (int)receiving.msg_namelen,
        receiving.msg_flags, (int)receiving.msg_controllen);
    addr_t back = from;
    back.len = receiving.msg_namelen;
    sending.msg_name = &back.ss;
    AS("back", sendmsg(server, &sending, 0));
    say_received("received", fd);
    sending.msg_namelen = 3;
    AS("short name", sendmsg(fd, &sending, 0));
    sending.msg_name = (void *)8;
    sending.msg_namelen = to.len;
    AS("bad name", sendmsg(fd, &sending, 0));
    sending.msg_name = NULL;
    AS("name NULL", sendmsg(fd, &sending, 0));
    sending.msg_namelen = 0;
    AS("no name", sendmsg(fd, &sending, 0));
    sending.msg_name = &to.ss;
    AS("name of length 0", sendmsg(fd, &sending, 0));
    sending.msg_namelen = -1;
    AS("name of length -1", sendmsg(fd, &sending, 0));
    sending.msg_namelen = 1000;
    AS("name of length 1000", sendmsg(fd, &sending, 0));
    sending.msg_namelen = to.len;
    sending.msg_iovlen = 2000;
    AS("2000 parts", sendmsg(fd, &sending, 0));
    sending.msg_iovlen = 1;
    sending.msg_iov = (void *)8;
    AS("bad parts", sendmsg(fd, &sending, 0));
    TRY(sendmsg(fd, (void *)8, 0));
    TRY(recvmsg(fd, (void *)8, MSG_DONTWAIT));
}

PROBE(many_messages) {
    int one = udp_at(at(0)), two = udp_at(at(0)), fd = udp();
    addr_t to[4], from[5];
    char text[5][8] = {""};
    struct iovec io[4], in[5];
    struct mmsghdr messages[5] = {0};
    for (int i = 0; i < 4; i++) {
        to[i] = at(port_of(i & 1 ? two : one));
        io[i] = (struct iovec){"abcd" + i, 4 - i};
        messages[i].msg_hdr =
            (struct msghdr){.msg_name = &to[i].ss, .msg_namelen = to[i].len, .msg_iov = &io[i], .msg_iovlen = 1};
    }
    TRY(sendmmsg(fd, messages, 4, 0));
    for (int i = 0; i < 4; i++)
        say("length %d", (int)messages[i].msg_len);
    arrived(one);
    arrived(two);
    for (int i = 0; i < 5; i++) {
        in[i] = (struct iovec){text[i], 7};
        messages[i].msg_hdr = (struct msghdr){
            .msg_name = &from[i].ss, .msg_namelen = sizeof from[i].ss, .msg_iov = &in[i], .msg_iovlen = 1};
    }
    TRY(recvmmsg(one, messages, 5, MSG_WAITFORONE, NULL));
    for (int i = 0; i < 2; i++)
        say("%s %d from %s", text[i], (int)messages[i].msg_len, role(&from[i]));
    TRY(recvmmsg(two, messages, 1, 0, NULL));
    TRY(recvmmsg(two, messages, 5, MSG_DONTWAIT, NULL));
    TRY(recvmmsg(two, messages, 5, MSG_DONTWAIT, NULL));
    struct timespec t = {0, 20000000};
    send_to(fd, "x", at(port_of(two)));
    TRY(recvmmsg(two, messages, 1, 0, &t));
    TRY(sendmmsg(fd, messages, 0, 0));
    TRY(sendmmsg(fd, (void *)8, 2, 0));
    /* the second is wrong: one is sent, and then nothing, with the error */
    for (int i = 0; i < 3; i++)
        messages[i].msg_hdr =
            (struct msghdr){.msg_name = &to[i].ss, .msg_namelen = to[i].len, .msg_iov = &io[i], .msg_iovlen = 1};
    messages[1].msg_hdr.msg_namelen = 2;
    AS("the second is wrong", sendmmsg(fd, messages, 3, 0));
    AS("the first is wrong", sendmmsg(fd, messages + 1, 2, 0));
    messages[1].msg_hdr = (struct msghdr){.msg_iov = &io[1], .msg_iovlen = 1};
    AS("the second has no name", sendmmsg(fd, messages, 3, 0));
    MUST(CONNECT(fd, to[1]));
    AS("it is the peer's", sendmmsg(fd, messages, 3, 0));
    say_received("two", two);
}

PROBE(any_as_destination) {
    int server = udp_at(any(0)), fd = udp();
    AS("sent", send_to(fd, "x", any(port_of(server))));
    addr_t from = say_received("received", server);
    AS("answered", from.len ? send_to(server, "y", from) : -1);
    say_received("answer", fd);
    int mine = udp_at(at(0));
    send_to(mine, "z", any(port_of(server)));
    say_received("from a bound one", server);
    int narrow = udp_at(loopback(0));
    AS("to loopback's", send_to(udp(), "x", any(port_of(narrow))));
    say_received("received", narrow);
}

PROBE(refused) {
    int fd = udp(), port = unused_udp_port();
    MUST(CONNECT(fd, at(port)));
    TRY(send(fd, "x", 1, 0));
    settle("poll", fd, POLLERR, POLLIN | POLLOUT | POLLERR);
    TRY(send(fd, "x", 1, 0));
    TRY(send(fd, "x", 1, 0));
    settle("poll", fd, POLLERR, POLLERR);
    char c;
    TRY(recv(fd, &c, 1, 0));
    TRY(recv(fd, &c, 1, MSG_DONTWAIT));
    send(fd, "x", 1, 0);
    settle("poll", fd, POLLERR, POLLERR);
    say("SO_ERROR %s", name_of_errno(get(fd, SOL_SOCKET, SO_ERROR)));
    say("SO_ERROR %s", name_of_errno(get(fd, SOL_SOCKET, SO_ERROR)));
    int server = udp_at(at(port));
    exchange("now", fd, server, at(port));
    close(server);
    TRY(send(fd, "x", 1, 0));
    settle("gone", fd, POLLERR, POLLERR);
    TRY(write(fd, "x", 1));
    int loose = udp();
    AS("unconnected", send_to(loose, "x", at(port)));
    AS("again", send_to(loose, "x", at(port)));
    EVENTS("poll", loose, POLLIN | POLLERR, 0);
    say("SO_ERROR %s", name_of_errno(get(loose, SOL_SOCKET, SO_ERROR)));
}

PROBE(refused_while_it_waits) {
    int fd = udp(), me = getpid();
    char c;
    MUST(CONNECT(fd, loopback(unused_udp_port())));
    pid_t child = CHILD(until_asleep(me, me); send(fd, "x", 1, 0));
    TRY(recv(fd, &c, 1, 0));
    join("child", child);
}

PROBE(error_queue) {
    int fd = udp(), port = unused_udp_port();
    char text[16] = "", control[256];
    addr_t name;
    struct iovec io = {text, sizeof text};
    struct msghdr message = {.msg_name = &name.ss,
                             .msg_namelen = sizeof name.ss,
                             .msg_iov = &io,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    int level = family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6, option = family == AF_INET ? IP_RECVERR : IPV6_RECVERR;
    TRY(set(fd, level, option, 1));
    TRY(recvmsg(fd, &message, MSG_ERRQUEUE));
    AS("sent", send_to(fd, "lost", at(port)));
    settle("poll", fd, POLLERR, POLLERR | POLLIN);
    message.msg_controllen = sizeof control;
    TRY(recvmsg(fd, &message, MSG_ERRQUEUE));
    say("%s for %s, its port %d, flags %x", text, role(&name), port_in(&name) == port, message.msg_flags);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
        struct sock_extended_err *error = (void *)CMSG_DATA(c);
        addr_t offender;
        memcpy(&offender.ss, SO_EE_OFFENDER(error), sizeof(struct sockaddr_in6));
        say("level %d type %d: %s origin %d type %d code %d, by %s", c->cmsg_level, c->cmsg_type,
            name_of_errno(error->ee_errno), error->ee_origin, error->ee_type, error->ee_code, role(&offender));
    }
    AS("no more", recvmsg(fd, &message, MSG_ERRQUEUE));
    EVENTS("poll", fd, POLLERR, 0);
}

static void say_control(struct msghdr *message, int interface) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        void *data = CMSG_DATA(c);
        addr_t a;
        memset(&a, 0, sizeof a);
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo *info = data;
            a.sa.sa_family = AF_INET;
            a.in.sin_addr = info->ipi_addr;
            addr_t local = a;
            local.in.sin_addr = info->ipi_spec_dst;
            say("  IP_PKTINFO to %s, local %s, interface %s", role(&a), role(&local),
                info->ipi_ifindex == interface ? "lo" : "other");
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo *info = data;
            a.sa.sa_family = AF_INET6;
            a.in6.sin6_addr = info->ipi6_addr;
            say("  IPV6_PKTINFO to %s, interface %s", role(&a), (int)info->ipi6_ifindex == interface ? "lo" : "other");
        } else if (c->cmsg_level == SOL_SOCKET && (c->cmsg_type == SCM_TIMESTAMP || c->cmsg_type == SCM_TIMESTAMPNS)) {
            struct timeval *t = data;
            say("  SO_TIMESTAMP%s of now: %d", c->cmsg_type == SCM_TIMESTAMP ? "" : "NS",
                labs(t->tv_sec - time(NULL)) < 20);
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_ORIGDSTADDR) {
            memcpy(&a.ss, data, sizeof a.in);
            say("  IP_ORIGDSTADDR %s", role(&a));
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
            say("  IP_TOS %d", *(unsigned char *)data);
        } else {
            say("  level %d type %d: %d", c->cmsg_level, c->cmsg_type, *(int *)data);
        }
    }
}

static void receive_control(const char *label, int fd) {
    char text[16], control[512];
    struct iovec io = {text, sizeof text};
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    poll_one(fd, POLLIN, 4000);
    AS(label, recvmsg(fd, &message, MSG_DONTWAIT));
    say_control(&message, 1);
}

PROBE(control_messages) {
    int server = udp_at(any(0)), fd = udp();
    if (family == AF_INET) {
        TRY(set(server, IPPROTO_IP, IP_PKTINFO, 1));
        TRY(set(server, IPPROTO_IP, IP_RECVTTL, 1));
        TRY(set(server, IPPROTO_IP, IP_RECVTOS, 1));
        TRY(set(server, IPPROTO_IP, IP_RECVORIGDSTADDR, 1));
        TRY(set(fd, IPPROTO_IP, IP_TOS, 0x48));
        TRY(set(fd, IPPROTO_IP, IP_TTL, 17));
    } else {
        TRY(set(server, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1));
        TRY(set(server, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1));
        TRY(set(server, IPPROTO_IPV6, IPV6_RECVTCLASS, 1));
        TRY(set(fd, IPPROTO_IPV6, IPV6_TCLASS, 0x48));
        TRY(set(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 17));
    }
    TRY(set(server, SOL_SOCKET, SO_TIMESTAMP, 1));
    send_to(fd, "x", at(port_of(server)));
    receive_control("to self", server);
    TRY(set(server, SOL_SOCKET, SO_TIMESTAMPNS, 1));
    send_to(fd, "x", loopback(port_of(server)));
    receive_control("to loopback", server);
    if (family == AF_INET6) {
        TRY(set(server, IPPROTO_IP, IP_PKTINFO, 1));
        send_to(fd, "x", mapped(at4(port_of(server))));
        receive_control("to the mapped one", server);
        AS("IPv4", send_to(MUST(socket(AF_INET, SOCK_DGRAM, 0)), "x", at4(port_of(server))));
        receive_control("from IPv4", server);
    }
}

/* The source address of one message: IP_PKTINFO of a sender. */
static long send_from(int fd, addr_t source, addr_t to) {
    char control[64] = {0};
    struct iovec io = {"from", 4};
    struct msghdr message = {.msg_name = &to.ss,
                             .msg_namelen = to.len,
                             .msg_iov = &io,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    if (source.sa.sa_family == AF_INET) {
        struct in_pktinfo info = {.ipi_spec_dst = source.in.sin_addr};
        c->cmsg_level = IPPROTO_IP;
        c->cmsg_type = IP_PKTINFO;
        c->cmsg_len = CMSG_LEN(sizeof info);
        memcpy(CMSG_DATA(c), &info, sizeof info);
    } else {
        struct in6_pktinfo info = {.ipi6_addr = source.in6.sin6_addr};
        c->cmsg_level = IPPROTO_IPV6;
        c->cmsg_type = IPV6_PKTINFO;
        c->cmsg_len = CMSG_LEN(sizeof info);
        memcpy(CMSG_DATA(c), &info, sizeof info);
    }
    message.msg_controllen = CMSG_SPACE(c->cmsg_len - CMSG_LEN(0));
    return sendmsg(fd, &message, 0);
}

PROBE(source_by_control_message) {
    int server = udp_at(any(0)), fd = udp_at(any(0));
    AS("from self", send_from(fd, at(0), loopback(port_of(server))));
    say_received("received", server);
    AS("from loopback", send_from(fd, loopback(0), at(port_of(server))));
    say_received("received", server);
    AS("from nobody's", send_from(fd, nobody(0), at(port_of(server))));
}

PROBE(bad_control_messages) {
    int fd = udp(), server = udp_at(at(0));
    char control[64] = {0};
    addr_t to = at(port_of(server));
    struct iovec io = {"x", 1};
    struct msghdr message = {.msg_name = &to.ss,
                             .msg_namelen = to.len,
                             .msg_iov = &io,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = 32};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    AS("length 0", sendmsg(fd, &message, 0));
    c->cmsg_len = 5000;
    AS("too long", sendmsg(fd, &message, 0));
    c->cmsg_len = CMSG_LEN(4);
    c->cmsg_level = family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6;
    c->cmsg_type = 250;
    AS("unknown type", sendmsg(fd, &message, 0));
    c->cmsg_level = 222;
    message.msg_controllen = CMSG_SPACE(4);
    AS("unknown level", sendmsg(fd, &message, 0));
    message.msg_control = (void *)8;
    AS("bad address", sendmsg(fd, &message, 0));
}

PROBE(segments) {
    int ends[2];
    char control[64] = {0}, in[8000];
    both(ends);
    struct iovec io = {big, 3000};
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(2)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = IPPROTO_UDP;
    c->cmsg_type = UDP_SEGMENT;
    c->cmsg_len = CMSG_LEN(2);
    *(uint16_t *)CMSG_DATA(c) = 1200;
    AS("segmented by message", sendmsg(ends[0], &message, 0));
    for (int i = 0; i < 3; i++) {
        arrived(ends[1]);
        say("%ld bytes", (long)recv(ends[1], in, sizeof in, MSG_DONTWAIT));
    }
    TRY(set(ends[0], IPPROTO_UDP, UDP_SEGMENT, 1000));
    say("%d", get(ends[0], IPPROTO_UDP, UDP_SEGMENT));
    AS("segmented by option", send(ends[0], big, 2500, 0));
    for (int i = 0; i < 3; i++) {
        arrived(ends[1]);
        say("%ld bytes", (long)recv(ends[1], in, sizeof in, MSG_DONTWAIT));
    }
    TRY(set(ends[1], IPPROTO_UDP, UDP_GRO, 1));
    say("%d", get(ends[1], IPPROTO_UDP, UDP_GRO));
    AS("to GRO", send(ends[0], big, 4000, 0));
    int total = 0;
    while (total < 4000) {
        arrived(ends[1]);
        total += MUST(recv(ends[1], in, sizeof in, MSG_DONTWAIT));
    }
    say("all %d", total);
    addr_t to = at(port_of(ends[1]));
    int fd = udp();
    TRY(set(fd, IPPROTO_UDP, UDP_SEGMENT, 1000));
    AS("unconnected", sendto(fd, big, 2000, 0, &to.sa, to.len));
    for (total = 0; total < 2000;) {
        arrived(ends[1]);
        total += MUST(recv(ends[1], in, sizeof in, MSG_DONTWAIT));
    }
    say("all %d", total);
}

PROBE(corked) {
    int ends[2];
    both(ends);
    TRY(send(ends[0], "one ", 4, MSG_MORE));
    EVENTS("nothing yet", ends[1], POLLIN, 0);
    TRY(send(ends[0], "two", 3, 0));
    say_received("received", ends[1]);
    int fd = udp();
    addr_t to = at(port_of(ends[1]));
    TRY(sendto(fd, "a", 1, MSG_MORE, &to.sa, to.len));
    TRY(sendto(fd, "b", 1, 0, &to.sa, to.len));
    say_received("received", ends[1]);
}

PROBE(connected_takes_from_its_peer_only) {
    int ends[2], stranger = udp_at(at(0));
    both(ends);
    addr_t mine = sockname(ends[0]);
    AS("stranger", send_to(stranger, "x", at(port_in(&mine))));
    AS("peer", send_to(ends[1], "y", at(port_in(&mine))));
    say_received("received", ends[0]);
    EVENTS("no more", ends[0], POLLIN, 0);
    AS("sends to another one", send_to(ends[0], "z", at(port_of(stranger))));
    say_received("received", stranger);
    say_peername("the peer stays", ends[0]);
    AS("and is sent to", send(ends[0], "w", 1, 0));
    say_received("received", ends[1]);
}

PROBE(implicit_bind) {
    int fd = udp(), server = udp_at(any(0));
    AS("sent", send_to(fd, "x", loopback(port_of(server))));
    say_sockname("sockname", fd);
    AS("bind", BIND(fd, at(0)));
    int port = port_of(fd);
    say_received("one", server);
    AS("sent", send_to(fd, "y", at(port_of(server))));
    addr_t from = say_received("two", server);
    say("same port: %d, as seen: %d", port_of(fd) == port, port_in(&from) == port);
    AS("connect", CONNECT(fd, at(port_of(server))));
    say("same port: %d", port_of(fd) == port);
    say_sockname("sockname", fd);
}

PROBE(server_with_many_clients) {
    int server = udp_at(any(0)), clients[60], wrong = 0;
    for (int i = 0; i < 60; i++) {
        char text[8];
        snprintf(text, sizeof text, "%d", i);
        clients[i] = udp();
        if (i & 1)
            MUST(CONNECT(clients[i], at(port_of(server))));
        MUST(i & 1 ? send(clients[i], text, strlen(text), 0) : send_to(clients[i], text, at(port_of(server))));
    }
    for (int i = 0; i < 60; i++) {
        char text[8];
        addr_t from = {.len = sizeof from.ss};
        arrived(server);
        long n = MUST(recvfrom(server, text, sizeof text, 0, &from.sa, &from.len));
        MUST(sendto(server, text, n, 0, &from.sa, from.len));
    }
    for (int i = 0; i < 60; i++) {
        char text[8] = "";
        arrived(clients[i]);
        MUST(recv(clients[i], text, sizeof text - 1, 0));
        wrong += atoi(text) != i;
    }
    say("wrong answers: %d", wrong);
}

PROBE(reuseport_shares) {
    int servers[3], port = 0, counts[3] = {0}, total = 0;
    for (int i = 0; i < 3; i++) {
        servers[i] = udp();
        MUST(set(servers[i], SOL_SOCKET, SO_REUSEPORT, 1));
        MUST(BIND(servers[i], at(port)));
        port = port_of(servers[i]);
    }
    for (int i = 0; i < 120; i++) {
        int fd = udp();
        MUST(send_to(fd, "x", at(port)));
        close(fd);
    }
    char c;
    for (int i = 0; i < 3; i++)
        while (recv(servers[i], &c, 1, MSG_DONTWAIT) == 1)
            counts[i]++, total++;
    say("total %d, all have some: %d", total, counts[0] && counts[1] && counts[2]);
    close(servers[0]);
    for (int i = 0; i < 40; i++) {
        int fd = udp();
        MUST(send_to(fd, "x", at(port)));
        close(fd);
    }
    for (int i = total = 0; i < 2; i++)
        while (recv(servers[i + 1], &c, 1, MSG_DONTWAIT) == 1)
            total++;
    say("without the first: %d", total);
}

PROBE(reuseaddr_goes_to_the_last) {
    int one = udp(), two = udp();
    MUST(set(one, SOL_SOCKET, SO_REUSEADDR, 1));
    MUST(set(two, SOL_SOCKET, SO_REUSEADDR, 1));
    MUST(BIND(one, at(0)));
    MUST(BIND(two, at(port_of(one))));
    AS("sent", send_to(udp(), "x", at(port_of(one))));
    EVENTS("first", one, POLLIN, 0);
    EVENTS("second", two, POLLIN, 0);
    int wide = udp();
    MUST(set(wide, SOL_SOCKET, SO_REUSEADDR, 1));
    AS("wildcard beside", BIND(wide, any(port_of(one))));
    AS("sent", send_to(udp(), "x", loopback(port_of(one))));
    say_received("only it takes the rest", wide);
}

PROBE(full_buffer) {
    int ends[2], sent = 0, got = 0;
    both(ends);
    MUST(set(ends[1], SOL_SOCKET, SO_RCVBUF, 4096));
    for (int i = 0; i < 200; i++)
        sent += send(ends[0], big, 1000, 0) == 1000;
    while (recv(ends[1], big, 1000, MSG_DONTWAIT) == 1000)
        got++;
    say("sent %d, lost some %d, received some %d", sent, got < sent, got > 0);
    MUST(send(ends[0], "after", 5, 0));
    say_received("then", ends[1]);
}

PROBE(counts) {
    int ends[2], n = -1;
    both(ends);
    TRY(ioctl(ends[1], FIONREAD, &n));
    say("%d", n);
    MUST(send(ends[0], "12345", 5, 0));
    MUST(send(ends[0], "123", 3, 0));
    arrived(ends[1]);
    TRY(ioctl(ends[1], FIONREAD, &n));
    say("%d", n);
    TRY(ioctl(ends[0], TIOCOUTQ, &n));
    say("unsent %d", n);
}
