/* socket(2): what it makes, what it refuses, and what a fresh socket says of itself. */
#include "probe.h"

PROBE(types)
{
    static const struct {
        int type, protocol;
        const char *label;
    } cases[] = {
        {SOCK_STREAM, 0, "STREAM 0"},
        {SOCK_STREAM, IPPROTO_TCP, "STREAM TCP"},
        {SOCK_DGRAM, 0, "DGRAM 0"},
        {SOCK_DGRAM, IPPROTO_UDP, "DGRAM UDP"},
        {SOCK_STREAM, IPPROTO_UDP, "STREAM UDP"},
        {SOCK_DGRAM, IPPROTO_TCP, "DGRAM TCP"},
        {SOCK_STREAM, IPPROTO_ICMP, "STREAM ICMP"},
        {SOCK_STREAM, IPPROTO_RAW, "STREAM RAW"},
        {SOCK_STREAM, 256, "STREAM 256"},
        {SOCK_STREAM, -1, "STREAM -1"},
        {0, 0, "0 0"},
        {-1, 0, "-1 0"},
        {15, 0, "15 0"},
        {SOCK_SEQPACKET, 0, "SEQPACKET 0"},
        {SOCK_RDM, 0, "RDM 0"},
        {SOCK_STREAM | 0x40, 0, "STREAM|0x40 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int fd = socket(family, cases[i].type, cases[i].protocol);
        ASFD(cases[i].label, fd);
        if (fd >= 0)
            close(fd);
    }
}

PROBE(unknown_families)
{
    ASFD("AF_UNSPEC", socket(AF_UNSPEC, SOCK_STREAM, 0));
    ASFD("99", socket(99, SOCK_STREAM, 0));
    ASFD("-1", socket(-1, SOCK_STREAM, 0));
    ASFD("AF_UNIX with TCP", socket(AF_UNIX, SOCK_STREAM, IPPROTO_TCP));
}

/* The kernel looks at the lower half of each register only: so must whoever looks before it. */
PROBE(upper_halves)
{
    long fd = syscall(SYS_socket, (1L << 32) | family, (7L << 32) | SOCK_STREAM, 5L << 32);
    ASFD("socket", fd);
    if (fd < 0)
        return;
    say("domain is the family: %s", get(fd, SOL_SOCKET, SO_DOMAIN) == family ? "yes" : "no");
    int listening = listener();
    addr_t to = at(port_of(listening));
    AS("connect", syscall(SYS_connect, (9L << 32) | fd, &to, (3L << 32) | to.len));
    int served = ASFD("accept", syscall(SYS_accept4, (9L << 32) | listening, NULL, NULL, 2L << 32));
    talk("talk", fd, served);
}

PROBE(flags)
{
    say_flags("none", tcp());
    say_flags("CLOEXEC", MUST(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0)));
    say_flags("NONBLOCK", MUST(socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0)));
    say_flags("both", MUST(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP)));
}

PROBE(flags_changed_later)
{
    int fd = tcp();
    TRY(fcntl(fd, F_SETFL, O_NONBLOCK));
    TRY(fcntl(fd, F_SETFD, FD_CLOEXEC));
    say_flags("both set", fd);
    int off = 0;
    TRY(ioctl(fd, FIONBIO, &off));
    TRY(ioctl(fd, FIONCLEX));
    say_flags("both cleared by ioctl", fd);
}

PROBE(identity)
{
    int stream = tcp(), datagram = MUST(socket(family, SOCK_DGRAM, 0));
    say("stream: domain is the family %d, type %d, protocol %d, listening %d",
        get(stream, SOL_SOCKET, SO_DOMAIN) == family, get(stream, SOL_SOCKET, SO_TYPE),
        get(stream, SOL_SOCKET, SO_PROTOCOL), get(stream, SOL_SOCKET, SO_ACCEPTCONN));
    say("datagram: domain is the family %d, type %d, protocol %d", get(datagram, SOL_SOCKET, SO_DOMAIN) == family,
        get(datagram, SOL_SOCKET, SO_TYPE), get(datagram, SOL_SOCKET, SO_PROTOCOL));
    int listening = listener(), client = client_of(listening), served = MUST(accept(listening, NULL, NULL));
    const int all[] = {listening, client, served};
    const char *labels[] = {"listening", "client", "served"};
    for (int i = 0; i < 3; i++)
        say("%s: domain is the family %d, type %d, protocol %d, listening %d", labels[i],
            get(all[i], SOL_SOCKET, SO_DOMAIN) == family, get(all[i], SOL_SOCKET, SO_TYPE),
            get(all[i], SOL_SOCKET, SO_PROTOCOL), get(all[i], SOL_SOCKET, SO_ACCEPTCONN));
}

PROBE(lowest_descriptor)
{
    int first = tcp(), second = tcp();
    say("second follows first: %s", second == first + 1 ? "yes" : "no");
    close(first);
    say("the lowest is reused: %s", tcp() == first ? "yes" : "no");
    close(0);
    say("even 0: %s", tcp() == 0 ? "yes" : "no");
}

PROBE(descriptors_exhausted)
{
    int top = tcp();
    struct rlimit limit = {top + 1, top + 1};
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    TRYFD(socket(family, SOCK_STREAM, 0));
    close(top);
    TRYFD(socket(family, SOCK_STREAM, 0));
}

PROBE(file_of_a_socket)
{
    int fd = tcp();
    struct stat status;
    char path[64], link[64] = "";
    TRY(fstat(fd, &status));
    say("is a socket: %d", S_ISSOCK(status.st_mode));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    MUST(readlink(path, link, sizeof link - 1));
    say("link: %.8s", link);
    TRY(lseek(fd, 0, SEEK_SET));
}

PROBE(never_connected_io)
{
    int fd = tcp();
    char byte = 0;
    signal(SIGPIPE, SIG_IGN);
    TRY(read(fd, &byte, 1));
    TRY(recv(fd, &byte, 1, MSG_DONTWAIT));
    TRY(write(fd, &byte, 1));
}

PROBE(never_connected_message)
{
    addr_t to = at(8000);
    struct iovec io = {"a", 1};
    struct msghdr message = {.msg_name = &to.sa, .msg_namelen = to.len, .msg_iov = &io, .msg_iovlen = 1};
    TRY(sendmsg(tcp(), &message, MSG_NOSIGNAL));
}

PROBE(never_connected_poll) { EVENTS("poll", tcp(), POLLIN | POLLOUT | POLLRDHUP, 0); }

PROBE(many_fresh_sockets)
{
    for (int i = 0; i < 2000; i++)
        MUST(close(tcp()));
    say("2000 made and closed");
}
