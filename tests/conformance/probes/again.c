/* The same calls again: what was decided for the first is remembered, and must still be what it is bare. */
#include "probe.h"

enum { ROUNDS = 3 };

static int tcp_state(int fd)
{
    struct tcp_info info;
    socklen_t length = sizeof info;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0 ? -errno : info.tcpi_state;
}

static void say_ends(int client, int served)
{
    addr_t a = sockname(client), b = peername(served), c = peername(client), d = sockname(served);
    say_sockname("client's sockname", client);
    say_peername("client's peername", client);
    say_sockname("server's sockname", served);
    say_peername("server's peername", served);
    say("they agree: %d %d %d %d", same_ip(&a, &b), port_in(&a) == port_in(&b), same_ip(&c, &d), port_in(&c) == port_in(&d));
}

PROBE(blocking)
{
    int fd = listener(), port = port_of(fd);
    for (int round = 0; round < ROUNDS; round++) {
        int client = tcp();
        TRY(CONNECT(client, at(port)));
        TRY(CONNECT(client, at(port)));
        addr_t from = {.len = sizeof from.ss};
        int served = ASFD("accept", accept(fd, &from.sa, &from.len));
        say_addr("from", &from);
        say_flags("flags", served);
        say_ends(client, served);
        talk("talk", client, served);
        close(client);
        close(served);
    }
}

PROBE(nonblocking)
{
    int fd = listener(), port = port_of(fd);
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    for (int round = 0; round < ROUNDS; round++) {
        TRY(accept4(fd, NULL, NULL, SOCK_NONBLOCK));
        int client = tcp_nonblocking();
        TRY(CONNECT(client, at(port)));
        EVENTS("client", client, POLLOUT, 4000);
        say("SO_ERROR %d", get(client, SOL_SOCKET, SO_ERROR));
        TRY(CONNECT(client, at(port)));
        TRY(CONNECT(client, at(port)));
        EVENTS("listener", fd, POLLIN, 4000);
        int served = ASFD("accept4", accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
        say_flags("flags", served);
        say_ends(client, served);
        TRY(accept4(fd, NULL, NULL, 0));
        close(client);
        close(served);
    }
}

PROBE(waiting)
{
    int fd = listener(), port = port_of(fd), me = gettid_(), parent = getpid();
    for (int round = 0; round < ROUNDS; round++) {
        pid_t child = CHILD(close(fd); until_asleep(parent, me); MUST(CONNECT(tcp(), at(port))));
        addr_t from = {.len = sizeof from.ss};
        int served = ASFD("accept", accept(fd, &from.sa, &from.len));
        say_addr("from", &from);
        say_sockname("sockname", served);
        join("client", child);
        close(served);
    }
}

PROBE(edge_triggered)
{
    int fd = listener(), port = port_of(fd);
    for (int round = 0; round < ROUNDS; round++) {
        int client = tcp_nonblocking(), epoll = MUST(epoll_create1(0));
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET};
        MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, client, &event));
        while (epoll_wait(epoll, &event, 1, 0) > 0) {
        }
        TRY(CONNECT(client, at(port)));
        say("events %d", epoll_wait(epoll, &event, 1, 4000));
        say("writable %d", (event.events & EPOLLOUT) != 0);
        close(MUST(accept(fd, NULL, NULL)));
        close(client);
        close(epoll);
    }
}

PROBE(options)
{
    int fd = listener(), port = port_of(fd);
    for (int round = 0; round < ROUNDS; round++) {
        int client = tcp();
        say("nodelay %d", get(client, IPPROTO_TCP, TCP_NODELAY));
        TRY(set(client, IPPROTO_TCP, TCP_NODELAY, 5));
        TRY(set(client, IPPROTO_TCP, TCP_KEEPIDLE, 30 + round % 2));
        TRY(set(client, IPPROTO_TCP, TCP_KEEPIDLE, 0));
        TRY(set(client, IPPROTO_TCP, TCP_MAXSEG, 1200));
        say("nodelay %d, idle %d, maxseg set %d", get(client, IPPROTO_TCP, TCP_NODELAY),
            get(client, IPPROTO_TCP, TCP_KEEPIDLE) - round % 2, get(client, IPPROTO_TCP, TCP_MAXSEG) > 0);
        MUST(CONNECT(client, at(port)));
        int served = MUST(accept(fd, NULL, NULL));
        say("nodelay of both %d %d", get(client, IPPROTO_TCP, TCP_NODELAY), get(served, IPPROTO_TCP, TCP_NODELAY));
        TRY(set(served, IPPROTO_TCP, TCP_NODELAY, 1));
        TRY(set(served, IPPROTO_TCP, TCP_KEEPINTVL, 40));
        TRY(set(client, IPPROTO_TCP, TCP_NODELAY, 0));
        say("nodelay of both %d %d, interval %d", get(client, IPPROTO_TCP, TCP_NODELAY),
            get(served, IPPROTO_TCP, TCP_NODELAY), get(served, IPPROTO_TCP, TCP_KEEPINTVL));
        say("domain %d, protocol %d, type %d", get(served, SOL_SOCKET, SO_DOMAIN) == family,
            get(served, SOL_SOCKET, SO_PROTOCOL), get(served, SOL_SOCKET, SO_TYPE));
        say("original destination %d", get(served, family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6, 80));
        close(client);
        close(served);
    }
}

PROBE(lengths)
{
    int fd = listener(), port = port_of(fd);
    for (int round = 0; round < ROUNDS; round++) {
        int client = tcp(), value = 1;
        char room[2] = {0};
        socklen_t length = sizeof room;
        TRY(setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &value, 3));
        TRY(setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &value, -1));
        TRY(setsockopt(client, IPPROTO_TCP, TCP_NODELAY, (void *)1, 4));
        TRY(setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &value, 8));
        TRY(getsockopt(client, IPPROTO_TCP, TCP_NODELAY, room, &length));
        say("%d bytes: %d", (int)length, room[0]);
        length = -1;
        TRY(getsockopt(client, IPPROTO_TCP, TCP_NODELAY, room, &length));
        length = sizeof room;
        char *nowhere = (char *)1;
        socklen_t *no_length = (socklen_t *)2;
        TRY(getsockopt(client, IPPROTO_TCP, TCP_NODELAY, nowhere, &length));
        TRY(getsockopt(client, IPPROTO_TCP, TCP_NODELAY, room, no_length));
        addr_t to = at(port);
        TRY(connect(client, &to.sa, 8));
        TRY(connect(client, (void *)1, to.len));
        TRY(connect(client, &to.sa, to.len + 1000));
        TRY(connect(client, &to.sa, to.len + 4));
        int served = MUST(accept(fd, NULL, NULL));
        addr_t name = {.len = 3};
        TRY(getsockname(served, &name.sa, &name.len));
        say("%d", (int)name.len);
        name.len = 0;
        TRY(getpeername(client, &name.sa, &name.len));
        say("%d", (int)name.len);
        TRY(getsockname(client, (void *)1, &name.len));
        TRY(getpeername(served, &name.sa, (void *)1));
        close(client);
        close(served);
        client = client_of(fd);
        addr_t from = {.len = sizeof from.ss};
        TRYFD(accept(fd, (void *)1, &from.len));
        close(client);
    }
}

PROBE(states)
{
    int fd = listener();
    for (int round = 0; round < ROUNDS; round++) {
        int fresh = tcp(), client = client_of(fd), served = MUST(accept(fd, NULL, NULL));
        say("listening %d, fresh %d, connected %d %d", tcp_state(fd), tcp_state(fresh), tcp_state(client), tcp_state(served));
        MUST(shutdown(client, SHUT_WR));
        poll_one(served, POLLRDHUP, 4000);
        say("the other has finished: %d", tcp_state(served));
        close(fresh);
        close(client);
        close(served);
    }
}

static int reusing_at(addr_t where)
{
    int fd = tcp();
    MUST(set(fd, SOL_SOCKET, SO_REUSEADDR, 1));
    MUST(bind(fd, &where.sa, where.len));
    MUST(listen(fd, 8));
    return fd;
}

PROBE(gone_and_back)
{
    int fd = reusing_at(at(0)), port = port_of(fd);
    for (int round = 0; round < ROUNDS; round++) {
        for (int n = 0; n < 2; n++) {
            int client = tcp();
            TRY(CONNECT(client, at(port)));
            int served = MUST(accept(fd, NULL, NULL));
            close(served);
            close(client);
        }
        close(fd);
        TRY(CONNECT(tcp(), at(port)));
        fd = reusing_at(at(port));
    }
}

PROBE(bound)
{
    int fd = listener(), port = port_of(fd);
    close(client_of(fd));
    close(MUST(accept(fd, NULL, NULL)));
    for (int round = 0; round < ROUNDS; round++) {
        int client = tcp();
        MUST(BIND(client, at(0)));
        int mine = port_of(client);
        TRY(CONNECT(client, at(port)));
        say("it keeps its port: %d", port_of(client) == mine);
        int served = MUST(accept(fd, NULL, NULL));
        say_ends(client, served);
        close(client);
        close(served);
    }
}

