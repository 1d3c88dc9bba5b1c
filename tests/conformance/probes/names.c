/* getsockname(2) and getpeername(2) in every state of a socket. */
#include "probe.h"

PROBE(fresh)
{
    int fd = tcp();
    say_sockname("sockname", fd);
    say_peername("peername", fd);
}

PROBE(bound)
{
    int fd = tcp();
    MUST(BIND(fd, at(0)));
    say_sockname("sockname", fd);
    say_peername("peername", fd);
    int other = tcp();
    MUST(BIND(other, any(0)));
    say_sockname("wildcard", other);
}

PROBE(listening)
{
    int fd = listener();
    say_sockname("sockname", fd);
    say_peername("peername", fd);
    int wild = listener_at(any(0), 5);
    say_sockname("wildcard", wild);
}

PROBE(connected)
{
    int listening = listener(), client = client_of(listening);
    say_sockname("client's sockname", client);
    say_peername("client's peername", client);
    addr_t from = {.len = sizeof from.ss};
    int served = MUST(accept(listening, &from.sa, &from.len));
    say_addr("accept's address", &from);
    say_sockname("server's sockname", served);
    say_peername("server's peername", served);
    addr_t a = sockname(client), b = peername(served), c = peername(client), d = sockname(served);
    say("client's own port is what the server sees: %d", port_in(&a) == port_in(&b) && port_in(&a) == port_in(&from));
    say("server's own port is what the client sees: %d", port_in(&c) == port_in(&d) && port_in(&c) == port_of(listening));
    say("same address both ways: %d %d", same_ip(&a, &b), same_ip(&c, &d));
}

PROBE(connected_through_wildcard)
{
    int listening = listener_at(any(0), 5), client = tcp();
    MUST(CONNECT(client, at(port_of(listening))));
    int served = MUST(accept(listening, NULL, NULL));
    say_sockname("client's sockname", client);
    say_peername("client's peername", client);
    say_sockname("server's sockname", served);
    say_peername("server's peername", served);
}

PROBE(connected_over_loopback)
{
    int listening = listener_at(any(0), 5), client = tcp();
    MUST(CONNECT(client, loopback(port_of(listening))));
    addr_t from = {.len = sizeof from.ss};
    int served = MUST(accept(listening, &from.sa, &from.len));
    say_addr("accept's address", &from);
    say_sockname("client's sockname", client);
    say_sockname("server's sockname", served);
    say_peername("server's peername", served);
}

PROBE(bytes_of_an_address)
{
    int fd = listener();
    addr_t a;
    memset(&a, 0xee, sizeof a);
    a.len = sizeof a.ss;
    MUST(getsockname(fd, &a.sa, &a.len));
    int zero = 1, touched = 0;
    if (family == AF_INET)
        for (int i = 0; i < 8; i++)
            zero &= a.in.sin_zero[i] == 0;
    else
        zero = a.in6.sin6_flowinfo == 0 && a.in6.sin6_scope_id == 0;
    for (size_t i = a.len; i < sizeof a.raw; i++)
        touched |= (unsigned char)a.raw[i] != 0xee;
    say("padding is zero: %d, bytes behind touched: %d", zero, touched);
}

static void truncated(const char *label, int fd, int (*call)(int, struct sockaddr *, socklen_t *))
{
    static const int lengths[] = {0, 1, 2, 4, 8, 15, 16, 24, 27, 28, 64, 128, 1000};
    addr_t whole = {.len = sizeof whole.ss};
    MUST(call(fd, &whole.sa, &whole.len));
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        unsigned char raw[1024];
        socklen_t length = lengths[i];
        memset(raw, 0xee, sizeof raw);
        int result = call(fd, (struct sockaddr *)raw, &length);
        socklen_t given = (socklen_t)lengths[i] < whole.len ? (socklen_t)lengths[i] : whole.len;
        say("%s %d: %d, length %d, prefix right %d, next untouched %d", label, lengths[i], result, (int)length,
            memcmp(raw, whole.raw, given) == 0, raw[given] == 0xee);
    }
}

PROBE(truncated_sockname) { truncated("getsockname", listener(), getsockname); }

PROBE(truncated_peername)
{
    int ends[2];
    connection(ends);
    truncated("getpeername", ends[0], getpeername);
    truncated("server's getpeername", ends[1], getpeername);
}

PROBE(bad_arguments)
{
    int ends[2], pipes[2];
    connection(ends);
    MUST(pipe(pipes));
    addr_t a = {.len = sizeof a.ss};
    socklen_t negative = -1;
    TRY(getsockname(ends[0], &a.sa, &negative));
    TRY(getpeername(ends[0], &a.sa, &negative));
    TRY(getsockname(ends[0], &a.sa, NULL));
    TRY(getpeername(ends[0], &a.sa, NULL));
    TRY(getsockname(ends[0], NULL, &a.len));
    TRY(getpeername(ends[0], NULL, &a.len));
    a.len = 0;
    AS("getsockname into nothing", getsockname(ends[0], NULL, &a.len));
    say("length %d", (int)a.len);
    TRY(getsockname(pipes[0], &a.sa, &a.len));
    TRY(getpeername(pipes[0], &a.sa, &a.len));
    TRY(getsockname(-1, &a.sa, &a.len));
    TRY(getpeername(999, &a.sa, &a.len));
    close(ends[1]);
    AS("closed", getsockname(ends[1], &a.sa, &a.len));
}

PROBE(refused_then)
{
    int fd = tcp();
    AS("connect", CONNECT(fd, at(unused_port())));
    say_peername("peername", fd);
}

PROBE(after_shutdown_and_close)
{
    int ends[2];
    connection(ends);
    MUST(shutdown(ends[0], SHUT_WR));
    say_peername("after shutdown, its own", ends[0]);
    settle("the other sees", ends[1], POLLRDHUP, POLLIN | POLLRDHUP);
    say_peername("after shutdown, the other", ends[1]);
    say_sockname("after shutdown, the other", ends[1]);
    close(ends[0]);
    say_peername("after close, the other", ends[1]);
    say_sockname("after close, the other", ends[1]);
}

PROBE(after_disconnect)
{
    int ends[2];
    connection(ends);
    struct sockaddr unspec = {.sa_family = AF_UNSPEC};
    AS("connect to AF_UNSPEC", connect(ends[0], &unspec, sizeof unspec));
    say_peername("peername", ends[0]);
    addr_t a = sockname(ends[0]);
    say("sockname's port: %s", port_in(&a) ? "set" : "0");
}
