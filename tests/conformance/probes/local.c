/* What is not TCP or UDP is none of our business, and must work as ever: Unix sockets, pairs, netlink, pipes. */
#include "probe.h"
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/eventfd.h>

static struct sockaddr_un named(const char *name, socklen_t *length)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    static int turn;
    snprintf(a.sun_path + 1, sizeof a.sun_path - 1, "axt-%s-%d-%d", name, getpid(), turn++);
    *length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(a.sun_path + 1);
    return a;
}

PROBE(unix_stream)
{
    socklen_t length, got;
    struct sockaddr_un name = named("stream", &length), out;
    int fd = TRYFD(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)), client = TRYFD(socket(AF_UNIX, SOCK_STREAM, 0));
    AS("bind", bind(fd, (struct sockaddr *)&name, length));
    AS("listen", listen(fd, 5));
    AS("connect", connect(client, (struct sockaddr *)&name, length));
    got = sizeof out;
    int served = ASFD("accept", accept(fd, (struct sockaddr *)&out, &got));
    say("from an unnamed one: length %d, family %d", (int)got, out.sun_family);
    talk("talk", client, served);
    got = sizeof out;
    AS("getpeername", getpeername(client, (struct sockaddr *)&out, &got));
    say("right: %d", got == length && memcmp(&out, &name, length) == 0);
    got = sizeof out;
    AS("getsockname", getsockname(served, (struct sockaddr *)&out, &got));
    say("right: %d", got == length && memcmp(&out, &name, length) == 0);
    say("domain %d, type %d, protocol %d, listening %d", get(fd, SOL_SOCKET, SO_DOMAIN), get(fd, SOL_SOCKET, SO_TYPE),
        get(fd, SOL_SOCKET, SO_PROTOCOL), get(fd, SOL_SOCKET, SO_ACCEPTCONN));
    struct ucred cred;
    got = sizeof cred;
    AS("SO_PEERCRED", getsockopt(served, SOL_SOCKET, SO_PEERCRED, &cred, &got));
    say("me: %d", cred.pid == getpid() && cred.uid == getuid());
    AS("TCP_NODELAY", set(client, IPPROTO_TCP, TCP_NODELAY, 1));
    AS("IP_TOS", get(client, IPPROTO_IP, IP_TOS) < 0 ? (errno = -get(client, IPPROTO_IP, IP_TOS), -1) : 0);
    AS("SO_REUSEPORT", set(client, SOL_SOCKET, SO_REUSEPORT, 1));
    AS("SO_PASSCRED", set(client, SOL_SOCKET, SO_PASSCRED, 1));
    AS("shutdown", shutdown(client, SHUT_RDWR));
}

PROBE(unix_path)
{
    char directory[] = "/tmp/axt-probe-XXXXXX";
    if (!mkdtemp(directory))
        die("mkdtemp");
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    snprintf(name.sun_path, sizeof name.sun_path, "%s/s", directory);
    int fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0)), client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    AS("nobody", connect(client, (struct sockaddr *)&name, sizeof name));
    AS("bind", bind(fd, (struct sockaddr *)&name, sizeof name));
    AS("not listening", connect(client, (struct sockaddr *)&name, sizeof name));
    AS("bind again", bind(MUST(socket(AF_UNIX, SOCK_STREAM, 0)), (struct sockaddr *)&name, sizeof name));
    AS("listen", listen(fd, 0));
    AS("connect", connect(client, (struct sockaddr *)&name, sizeof name));
    int other = MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
    AS("full", connect(other, (struct sockaddr *)&name, sizeof name));
    talk("talk", client, MUST(accept4(fd, NULL, NULL, SOCK_CLOEXEC)));
    AS("unlink", unlink(name.sun_path));
    rmdir(directory);
}

PROBE(unix_waits)
{
    socklen_t length;
    struct sockaddr_un name = named("waits", &length);
    int fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0)), me = getpid();
    MUST(bind(fd, (struct sockaddr *)&name, length));
    MUST(listen(fd, 5));
    pid_t child = CHILD(until_asleep(me, me);
                        MUST(connect(MUST(socket(AF_UNIX, SOCK_STREAM, 0)), (struct sockaddr *)&name, length)));
    ASFD("accept", accept(fd, NULL, NULL));
    join("child", child);
    on_signal(SIGALRM, 0);
    alarm_in(50, 0);
    AS("interrupted", accept(fd, NULL, NULL));
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    AS("nonblocking", accept(fd, NULL, NULL));
    AS("on one that does not listen", accept(MUST(socket(AF_UNIX, SOCK_STREAM, 0)), NULL, NULL));
}

PROBE(unix_datagram)
{
    socklen_t length, got;
    struct sockaddr_un name = named("dgram", &length), out;
    int fd = MUST(socket(AF_UNIX, SOCK_DGRAM, 0)), client = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    char text[8] = "";
    AS("bind", bind(fd, (struct sockaddr *)&name, length));
    AS("sendto", sendto(client, "abc", 3, 0, (struct sockaddr *)&name, length));
    got = sizeof out;
    AS("recvfrom", recvfrom(fd, text, sizeof text, 0, (struct sockaddr *)&out, &got));
    say("%s from length %d", text, (int)got);
    struct sockaddr none = {.sa_family = AF_UNIX};
    AS("autobind", bind(client, &none, sizeof(sa_family_t)));
    AS("connect", connect(client, (struct sockaddr *)&name, length));
    AS("send", send(client, "def", 3, 0));
    got = sizeof out;
    AS("recvfrom", recvfrom(fd, text, sizeof text, 0, (struct sockaddr *)&out, &got));
    say("named %d", got > sizeof(sa_family_t));
    struct iovec io = {"ghi", 3};
    struct msghdr message = {.msg_name = &name, .msg_namelen = length, .msg_iov = &io, .msg_iovlen = 1};
    AS("sendmsg", sendmsg(client, &message, 0));
}

PROBE(unix_seqpacket)
{
    int pair[2];
    char text[8];
    AS("socketpair", socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
    TRY(send(pair[0], "abc", 3, 0));
    TRY(send(pair[0], "d", 1, 0));
    TRY(recv(pair[1], text, sizeof text, 0));
    TRY(recv(pair[1], text, sizeof text, 0));
}

PROBE(pairs)
{
    int pair[2];
    AS("stream", socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair));
    say_flags("flags", pair[0]);
    talk("talk", pair[0], pair[1]);
    struct sockaddr_un out;
    socklen_t got = sizeof out;
    AS("getsockname", getsockname(pair[0], (struct sockaddr *)&out, &got));
    say("length %d, family %d", (int)got, out.sun_family);
    int none[2];
    AS("AF_INET", socketpair(AF_INET, SOCK_STREAM, 0, none));
    send_fd(pair[0], 1);
    say("a descriptor travels: %d", receive_fd(pair[1]) > 0);
}

PROBE(netlink)
{
    int fd = TRYFD(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    struct sockaddr_nl name = {.nl_family = AF_NETLINK}, out;
    socklen_t got = sizeof out;
    TRY(bind(fd, (struct sockaddr *)&name, sizeof name));
    TRY(getsockname(fd, (struct sockaddr *)&out, &got));
    say("length %d, family %d", (int)got, out.nl_family);
    struct {
        struct nlmsghdr header;
        struct rtgenmsg body;
    } request = {.header = {.nlmsg_len = sizeof request, .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
                 .body = {.rtgen_family = AF_UNSPEC}};
    say("sent %d", sendto(fd, &request, sizeof request, 0, (struct sockaddr *)&name, sizeof name) == sizeof request);
    char answer[8192];
    say("answered %d", recv(fd, answer, sizeof answer, 0) > 0);
    TRY(connect(fd, (struct sockaddr *)&name, sizeof name));
    TRY(listen(fd, 1));
    TRY(accept(fd, NULL, NULL));
}

PROBE(pipes_and_events)
{
    int pipes[2], event = TRYFD(eventfd(1, EFD_NONBLOCK)), value = 1;
    uint64_t counter;
    MUST(pipe2(pipes, O_NONBLOCK));
    TRY(write(pipes[1], "x", 1));
    EVENTS("poll", pipes[0], POLLIN, 0);
    TRY(read(event, &counter, 8));
    TRY(setsockopt(pipes[0], SOL_SOCKET, SO_KEEPALIVE, &value, sizeof value));
    TRY(shutdown(pipes[0], SHUT_RD));
    TRY(sendto(pipes[1], "x", 1, 0, NULL, 0));
    TRY(sendto(pipes[1], "x", 1, 0, (struct sockaddr *)&counter, 8));
}

PROBE(both_kinds_side_by_side)
{
    /* our TCP and the program's own Unix sockets in one process, one set, one number range */
    socklen_t length;
    struct sockaddr_un name = named("beside", &length);
    int local = MUST(socket(AF_UNIX, SOCK_STREAM, 0)), fd = listener();
    MUST(bind(local, (struct sockaddr *)&name, length));
    MUST(listen(local, 5));
    int a = MUST(socket(AF_UNIX, SOCK_STREAM, 0)), b = client_of(fd);
    AS("Unix", connect(a, (struct sockaddr *)&name, length));
    talk("Unix", a, MUST(accept(local, NULL, NULL)));
    talk("TCP", b, MUST(accept(fd, NULL, NULL)));
    say("domains %d %d", get(a, SOL_SOCKET, SO_DOMAIN) == AF_UNIX, get(b, SOL_SOCKET, SO_DOMAIN) == family);
}

PROBE(datagrams_over_loopback)
{
    int fd = MUST(socket(family, SOCK_DGRAM, 0)), client = MUST(socket(family, SOCK_DGRAM, 0));
    char text[8] = "";
    AS("bind", BIND(fd, loopback(0)));
    say_sockname("name", fd);
    addr_t to = sockname(fd), from = {.len = sizeof from.ss};
    AS("sendto", sendto(client, "abc", 3, 0, &to.sa, to.len));
    AS("recvfrom", recvfrom(fd, text, sizeof text, 0, &from.sa, &from.len));
    say_addr(text, &from);
    AS("answer", sendto(fd, "def", 3, 0, &from.sa, from.len));
    AS("recv", recv(client, text, sizeof text, 0));
    AS("connect", connect(client, &to.sa, to.len));
    say_peername("peer", client);
    AS("send", send(client, "ghi", 3, 0));
    struct iovec io = {text, sizeof text};
    struct msghdr message = {.msg_name = &from.ss, .msg_namelen = sizeof from.ss, .msg_iov = &io, .msg_iovlen = 1};
    AS("recvmsg", recvmsg(fd, &message, 0));
    say_addr("from", &from);
    struct sockaddr unspec = {.sa_family = AF_UNSPEC};
    AS("disconnect", connect(client, &unspec, sizeof unspec));
    AS("listen", listen(fd, 5));
    AS("accept", accept(fd, NULL, NULL));
    AS("TCP_NODELAY", set(fd, IPPROTO_TCP, TCP_NODELAY, 1));
}

PROBE(refused_datagrams)
{
    int fd = MUST(socket(family, SOCK_DGRAM, 0)), client = MUST(socket(family, SOCK_DGRAM, 0));
    MUST(BIND(fd, loopback(0)));
    addr_t to = sockname(fd);
    close(fd);
    AS("connect", connect(client, &to.sa, to.len));
    AS("send", send(client, "abc", 3, 0));
    settle("poll", client, POLLIN | POLLERR, POLLERR);
    char c;
    AS("recv", recv(client, &c, 1, 0));
}
