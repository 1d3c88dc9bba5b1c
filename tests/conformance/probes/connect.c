/* connect(2), blocking. */
#include "probe.h"

PROBE(established)
{
    int fd = listener(), client = tcp();
    AS("connect", CONNECT(client, at(port_of(fd))));
    AS("again", CONNECT(client, at(port_of(fd))));
    AS("elsewhere", CONNECT(client, at(unused_port())));
    talk("talk", client, MUST(accept(fd, NULL, NULL)));
}

PROBE(refused)
{
    int fd = tcp(), port = unused_port();
    AS("connect", CONNECT(fd, at(port)));
    say("SO_ERROR: %d", get(fd, SOL_SOCKET, SO_ERROR));
    AS("again", CONNECT(fd, at(port)));
    AS("over loopback", CONNECT(tcp(), loopback(port)));
    AS("to any", CONNECT(tcp(), any(port)));
}

PROBE(refused_then_established)
{
    int fd = tcp(), port = unused_port();
    AS("refused", CONNECT(fd, at(port)));
    int listening = listener();
    AS("the same socket", CONNECT(fd, at(port_of(listening))));
    talk("talk", fd, MUST(accept(listening, NULL, NULL)));
}

PROBE(port_0) { AS("connect", CONNECT(tcp(), at(0))); }

PROBE(to_any)
{
    int wild = listener_at(any(0), 5), client = tcp();
    AS("connect", CONNECT(client, any(port_of(wild))));
    say_peername("peername", client);
    say_sockname("sockname", client);
    addr_t from = {.len = sizeof from.ss};
    int served = MUST(accept(wild, &from.sa, &from.len));
    say_addr("seen by the server", &from);
    talk("talk", client, served);
}

PROBE(to_loopback_when_listening_on_loopback)
{
    int fd = listener_at(loopback(0), 5), client = tcp();
    AS("connect", CONNECT(client, loopback(port_of(fd))));
    talk("talk", client, MUST(accept(fd, NULL, NULL)));
}

PROBE(all_of_127)
{
    addr_t two = parse("127.0.0.2", 0), one = loopback4(0);
    int fd = listener_at(two, 5), client = MUST(socket(AF_INET, SOCK_STREAM, 0));
    AS("to 127.0.0.1", CONNECT(client, with_port(one, port_of(fd))));
    AS("to 127.0.0.2", CONNECT(client, with_port(two, port_of(fd))));
    say_sockname("sockname", client);
    say_peername("peername", client);
    addr_t from = {.len = sizeof from.ss};
    talk("talk", client, MUST(accept(fd, &from.sa, &from.len)));
    say_addr("seen by the server", &from);
}

PROBE(bound_before)
{
    int fd = listener(), client = tcp();
    MUST(BIND(client, at(0)));
    int port = port_of(client);
    AS("connect", CONNECT(client, at(port_of(fd))));
    addr_t from = {.len = sizeof from.ss};
    int served = MUST(accept(fd, &from.sa, &from.len));
    say_addr("seen by the server", &from);
    say("the bound port: %d %d %d", port_in(&from) == port, port_of(client) == port,
        ({ addr_t p = peername(served); port_in(&p); }) == port);
}

PROBE(bound_to_wildcard_before)
{
    int fd = listener(), client = tcp();
    MUST(BIND(client, any(0)));
    int port = port_of(client);
    AS("connect", CONNECT(client, at(port_of(fd))));
    say_sockname("sockname", client);
    addr_t from = {.len = sizeof from.ss};
    MUST(accept(fd, &from.sa, &from.len));
    say_addr("seen by the server", &from);
    say("the bound port: %d %d", port_in(&from) == port, port_of(client) == port);
}

PROBE(bound_to_loopback_before)
{
    int fd = listener_at(any(0), 5), client = tcp();
    MUST(BIND(client, loopback(0)));
    AS("connect", CONNECT(client, at(port_of(fd))));
    addr_t from = {.len = sizeof from.ss};
    MUST(accept(fd, &from.sa, &from.len));
    say_addr("seen by the server", &from);
    say_sockname("sockname", client);
}

PROBE(bound_port_is_kept)
{
    int fd = listener(), client = tcp(), port = unused_port();
    MUST(BIND(client, at(port)));
    AS("connect", CONNECT(client, at(port_of(fd))));
    say("sockname has it: %d", port_of(client) == port);
}

PROBE(disconnect)
{
    int one = listener(), two = listener(), client = client_of(one), served = MUST(accept(one, NULL, NULL));
    struct sockaddr unspec = {.sa_family = AF_UNSPEC};
    char c;
    AS("connect to AF_UNSPEC", connect(client, &unspec, sizeof unspec));
    settle("the server sees", served, POLLIN, POLLIN);
    AS("the server reads", read(served, &c, 1) < 0 && errno != ECONNRESET ? -1 : 0);
    say_peername("peername", client);
    AS("connect to another", CONNECT(client, at(port_of(two))));
    talk("talk", client, MUST(accept(two, NULL, NULL)));
}

PROBE(disconnect_unconnected)
{
    struct sockaddr unspec = {.sa_family = AF_UNSPEC};
    addr_t a = {.len = sizeof a.ss};
    a.sa.sa_family = AF_UNSPEC;
    int fd = tcp();
    TRY(connect(fd, &unspec, sizeof unspec));
    TRY(connect(fd, &unspec, 2));
    TRY(connect(fd, &a.sa, sizeof a.ss));
    int listening = listener();
    AS("connect", CONNECT(fd, at(port_of(listening))));
}

PROBE(disconnect_listening)
{
    struct sockaddr unspec = {.sa_family = AF_UNSPEC};
    int port = unused_port(), fd = listener_at(at(port), 5);
    TRY(connect(fd, &unspec, sizeof unspec));
    say("accepting: %d", get(fd, SOL_SOCKET, SO_ACCEPTCONN));
    AS("connect to it", CONNECT(tcp(), at(port)));
}

PROBE(on_a_listening_socket)
{
    int fd = listener(), other = listener();
    AS("connect", CONNECT(fd, at(port_of(other))));
    AS("to itself", CONNECT(fd, at(port_of(fd))));
    int client = client_of(fd);
    talk("still listening", client, MUST(accept(fd, NULL, NULL)));
}

PROBE(lengths)
{
    int fd = listener();
    addr_t a = at(port_of(fd));
    static const int lengths[] = {0, 1, 2, 7, 8, 15, 16, 23, 24, 27, 28, 29, 64, 128, 129, 4096, -1, INT32_MIN, INT32_MAX};
    char raw[5000] = {0};
    memcpy(raw, &a.ss, sizeof a.ss);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char label[32];
        int client = tcp();
        snprintf(label, sizeof label, "length %d", lengths[i]);
        AS(label, connect(client, (struct sockaddr *)raw, lengths[i]));
        close(client);
    }
}

PROBE(families)
{
    static const int families[] = {AF_UNIX, AF_INET, AF_INET6, 99, 65535};
    int fd = listener();
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        addr_t a = at(port_of(fd));
        a.sa.sa_family = families[i];
        say("family %d: %s", families[i] == family ? 0 : families[i],
            name_of_errno(connect(tcp(), &a.sa, a.len) < 0 ? errno : 0));
        say("family %d, 110 bytes: %s", families[i] == family ? 0 : families[i],
            name_of_errno(connect(tcp(), &a.sa, 110) < 0 ? errno : 0));
    }
}

/* An app must not reach Unix sockets through what it thinks is TCP. */
PROBE(unix_addresses)
{
    int fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    strcpy(name.sun_path + 1, "axt-conformance");
    MUST(bind(fd, (struct sockaddr *)&name, 20));
    MUST(listen(fd, 5));
    AS("connect", connect(tcp(), (struct sockaddr *)&name, 20));
    AS("connect, long", connect(tcp(), (struct sockaddr *)&name, sizeof name));
    AS("bind", bind(tcp(), (struct sockaddr *)&name, 20));
    AS("bind, long", bind(tcp(), (struct sockaddr *)&name, sizeof name));
}

PROBE(bad_arguments)
{
    int fd = listener(), pipes[2];
    addr_t a = at(port_of(fd));
    MUST(pipe(pipes));
    TRY(connect(tcp(), NULL, sizeof(struct sockaddr_in6)));
    TRY(connect(tcp(), NULL, 0));
    TRY(connect(tcp(), (struct sockaddr *)8, sizeof(struct sockaddr_in6)));
    TRY(connect(-1, &a.sa, a.len));
    TRY(connect(999, &a.sa, a.len));
    TRY(connect(pipes[0], &a.sa, a.len));
    int client = tcp();
    AS("failures leave it usable", connect(client, NULL, sizeof(struct sockaddr_in6)));
    AS("connect", connect(client, &a.sa, a.len));
}

PROBE(unreachable)
{
    if (family == AF_INET) {
        AS("multicast", CONNECT(tcp(), parse("224.0.0.1", 80)));
        AS("broadcast", CONNECT(tcp(), parse("255.255.255.255", 80)));
    } else {
        AS("link-local without a scope", CONNECT(tcp(), parse("fe80::1", 80)));
    }
}

PROBE(flags_survive)
{
    int fd = listener();
    int blocking = MUST(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    MUST(CONNECT(blocking, at(port_of(fd))));
    say_flags("CLOEXEC", blocking);
    int nonblocking = tcp_nonblocking();
    CONNECT(nonblocking, at(port_of(fd)));
    poll_one(nonblocking, POLLOUT, 4000);
    say_flags("NONBLOCK", nonblocking);
    say("CLOEXEC server end by accept4: %s",
        fcntl(MUST(accept4(fd, NULL, NULL, SOCK_CLOEXEC)), F_GETFD) & FD_CLOEXEC ? "yes" : "no");
}

PROBE(descriptor_stays)
{
    int fd = listener(), client = tcp();
    int number = client;
    MUST(CONNECT(client, at(port_of(fd))));
    int next = tcp();
    say("the next free number follows: %d", next == number + 1);
    struct stat status;
    TRY(fstat(client, &status));
    say("a socket: %d", S_ISSOCK(status.st_mode));
}

PROBE(options_survive)
{
    int fd = listener(), client = tcp();
    MUST(set(client, IPPROTO_TCP, TCP_NODELAY, 1));
    MUST(set(client, SOL_SOCKET, SO_KEEPALIVE, 1));
    MUST(set(client, IPPROTO_TCP, TCP_KEEPIDLE, 77));
    MUST(set(client, SOL_SOCKET, SO_RCVBUF, 50000));
    struct timeval t = {3, 250000}, back = {0};
    socklen_t length = sizeof back;
    MUST(setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    MUST(CONNECT(client, at(port_of(fd))));
    say("nodelay %d, keepalive %d, idle %d, rcvbuf %d", get(client, IPPROTO_TCP, TCP_NODELAY),
        get(client, SOL_SOCKET, SO_KEEPALIVE), get(client, IPPROTO_TCP, TCP_KEEPIDLE), get(client, SOL_SOCKET, SO_RCVBUF));
    MUST(getsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &back, &length));
    say("receive time-out %ld.%06ld", (long)back.tv_sec, (long)back.tv_usec);
}

PROBE(send_timeout_on_full_backlog)
{
    int fd = full_listener(), client = tcp();
    struct timeval t = {0, 200000};
    MUST(setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t));
    double start = now();
    AS("connect", CONNECT(client, at(port_of(fd))));
    double took = now() - start;
    say("waited: %d", took > 0.15 && took < 0.9);
    AS("again", CONNECT(client, at(port_of(fd))));
}

PROBE(first_bytes_at_once)
{
    /* data sent before accept(2) is there when it returns */
    int fd = listener(), client = client_of(fd);
    char text[16] = "";
    send_all(client, "early", 5);
    MUST(shutdown(client, SHUT_WR));
    int served = MUST(accept(fd, NULL, NULL));
    TRY(read(served, text, sizeof text));
    say("text: %s", text);
    TRY(read(served, text, sizeof text));
}

PROBE(client_gone_before_accept)
{
    int fd = listener(), client = client_of(fd);
    char text[16] = "";
    send_all(client, "bye", 3);
    MUST(close(client));
    addr_t from = {.len = sizeof from.ss};
    int served = ASFD("accept", accept(fd, &from.sa, &from.len));
    say_addr("from", &from);
    TRY(read(served, text, sizeof text));
    say("text: %s", text);
    TRY(read(served, text, sizeof text));
    say_peername("peername", served);
}

PROBE(flags_survive_disconnect)
{
    struct sockaddr unspec = {.sa_family = AF_UNSPEC};
    int fd = listener(), client = MUST(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    MUST(set(client, SOL_SOCKET, SO_KEEPALIVE, 1));
    MUST(CONNECT(client, at(port_of(fd))));
    MUST(fcntl(client, F_SETFL, O_NONBLOCK));
    TRY(connect(client, &unspec, sizeof unspec));
    say_flags("after disconnecting", client);
    say("keepalive %d", get(client, SOL_SOCKET, SO_KEEPALIVE));
    CONNECT(client, at(port_of(fd)));
    say_flags("after connecting again", client);
    poll_one(client, POLLOUT, 4000);
    int other = MUST(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    MUST(BIND(other, at(0)));
    MUST(listen(other, 5));
    TRY(connect(other, &unspec, sizeof unspec));
    say_flags("a listening one", other);
    TRY(listen(other, 5));
    say_flags("listening again", other);
    TRY(accept(other, NULL, NULL));
}

PROBE(flags_survive_refusal)
{
    int fd = MUST(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)), port = unused_port();
    AS("connect", CONNECT(fd, at(port)));
    poll_one(fd, POLLOUT, 4000);
    say("SO_ERROR %s", name_of_errno(get(fd, SOL_SOCKET, SO_ERROR)));
    say_flags("after a refusal", fd);
    int listening = listener();
    CONNECT(fd, at(port_of(listening)));
    CONNECT(fd, at(port_of(listening)));
    poll_one(fd, POLLOUT, 4000);
    say_flags("connected at last", fd);
}
