/* listen(2), and what becomes of a backlog. */
#include "probe.h"

PROBE(without_bind)
{
    int fd = tcp();
    TRY(listen(fd, 5));
    say_sockname("name", fd);
    int client = tcp();
    AS("connect to self", CONNECT(client, at(port_of(fd))));
    int other = tcp();
    AS("connect to loopback", CONNECT(other, loopback(port_of(fd))));
    talk("first", client, MUST(accept(fd, NULL, NULL)));
    talk("second", other, MUST(accept(fd, NULL, NULL)));
}

PROBE(twice)
{
    int fd = listener();
    TRY(listen(fd, 1));
    TRY(listen(fd, 1000));
    int client = client_of(fd);
    TRY(listen(fd, 3));
    talk("a connection across listen", client, MUST(accept(fd, NULL, NULL)));
}

PROBE(accepting_is_visible)
{
    int fd = tcp();
    MUST(BIND(fd, at(0)));
    say("before: %d", get(fd, SOL_SOCKET, SO_ACCEPTCONN));
    TRY(listen(fd, 5));
    say("after: %d", get(fd, SOL_SOCKET, SO_ACCEPTCONN));
}

PROBE(on_a_connected_socket)
{
    int ends[2];
    connection(ends);
    TRY(listen(ends[0], 5));
    TRY(listen(ends[1], 5));
    talk("still", ends[0], ends[1]);
}

PROBE(after_a_refused_connect)
{
    int fd = tcp();
    AS("connect", CONNECT(fd, at(unused_port())));
    TRY(listen(fd, 5));
    int client = tcp();
    AS("connect to it", CONNECT(client, at(port_of(fd))));
}

PROBE(bad_arguments)
{
    int pipes[2], datagram = MUST(socket(family, SOCK_DGRAM, 0));
    MUST(pipe(pipes));
    TRY(listen(datagram, 5));
    TRY(listen(pipes[0], 5));
    TRY(listen(-1, 5));
    TRY(listen(999, 5));
}

PROBE(backlogs)
{
    static const int backlogs[] = {0, 1, -1, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof backlogs / sizeof *backlogs; i++) {
        int fd = tcp();
        MUST(BIND(fd, at(0)));
        char label[32];
        snprintf(label, sizeof label, "backlog %d", backlogs[i]);
        AS(label, listen(fd, backlogs[i]));
        int client = tcp();
        AS("connect", CONNECT(client, at(port_of(fd))));
        talk("talk", client, MUST(accept(fd, NULL, NULL)));
        close(fd);
    }
}

PROBE(close_refuses)
{
    int fd = listener(), port = port_of(fd);
    close(fd);
    AS("connect", CONNECT(tcp(), at(port)));
}

PROBE(close_in_one_process_of_two)
{
    int fd = listener(), port = port_of(fd), go[2];
    MUST(pipe(go));
    pid_t child = CHILD(char c; close(go[1]); MUST(read(go[0], &c, 1)); int got = accept(fd, NULL, NULL);
                        ASFD("child's accept", got); c = 'x'; send_all(got, &c, 1));
    close(fd);
    int client = tcp();
    AS("connect while the child holds it", CONNECT(client, at(port)));
    char c;
    MUST(write(go[1], "g", 1));
    recv_all(client, &c, 1);
    join("child", child);
    AS("connect when nobody does", CONNECT(tcp(), at(port)));
}

PROBE(close_resets_the_waiting)
{
    int fd = listener(), client = client_of(fd);
    close(fd);
    char c;
    settle("client", client, POLLIN, POLLIN | POLLERR | POLLHUP | POLLRDHUP);
    AS("read", read(client, &c, 1));
}

PROBE(one_address_only)
{
    int fd = listener();
    addr_t mine = at(0), loop = loopback(port_of(fd));
    if (same_ip(&mine, &loop))
        loop = family == AF_INET ? parse("127.0.0.2", port_of(fd)) : at(unused_port());
    AS("the other address", CONNECT(tcp(), loop));
}

PROBE(loopback_does_not_serve_self)
{
    int fd = listener_at(loopback(0), 5);
    addr_t mine = at(port_of(fd)), loop = loopback(0);
    if (same_ip(&mine, &loop))
        mine = family == AF_INET ? parse("127.0.0.2", port_of(fd)) : at(unused_port());
    AS("connect", CONNECT(tcp(), mine));
}

PROBE(specific_before_wildcard)
{
    int wild = tcp(), special = tcp();
    MUST(set(wild, SOL_SOCKET, SO_REUSEPORT, 1));
    MUST(set(special, SOL_SOCKET, SO_REUSEPORT, 1));
    MUST(BIND(wild, any(0)));
    MUST(BIND(special, at(port_of(wild))));
    MUST(listen(wild, 5));
    MUST(listen(special, 5));
    MUST(CONNECT(tcp(), at(port_of(wild))));
    settle("specific", special, POLLIN, POLLIN);
    EVENTS("wildcard", wild, POLLIN, 0);
}

PROBE(full_backlog_drains)
{
    /* More clients than the backlog holds: none is refused, all come through in the end. */
    enum { CLIENTS = 3 };
    int fd = listener_at(at(0), 1), clients[CLIENTS], in_progress = 0, accepted = 0;
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = tcp_nonblocking();
        in_progress += CONNECT(clients[i], at(port_of(fd))) < 0 && errno == EINPROGRESS;
    }
    say("in progress: %d", in_progress);
    while (accepted < CLIENTS && poll_one(fd, POLLIN, 4000)) {
        MUST(accept(fd, NULL, NULL));
        accepted++;
    }
    say("accepted: %d", accepted);
    int up = 0;
    for (int i = 0; i < CLIENTS; i++)
        up += (poll_one(clients[i], POLLOUT, 2000) & POLLOUT) && get(clients[i], SOL_SOCKET, SO_ERROR) == 0;
    say("connected: %d", up);
}

PROBE(full_backlog_blocks)
{
    enum { CLIENTS = 3 };
    int fd = listener_at(at(0), 1), accepted = 0;
    pid_t children[CLIENTS];
    for (int i = 0; i < CLIENTS; i++)
        children[i] = CHILD(char c; int mine = tcp(); MUST(CONNECT(mine, at(port_of(fd)))); recv_all(mine, &c, 1));
    while (accepted < CLIENTS && poll_one(fd, POLLIN, 4000)) {
        int one = MUST(accept(fd, NULL, NULL));
        send_all(one, "x", 1);
        accepted++;
    }
    say("accepted: %d", accepted);
    for (int i = 0; i < CLIENTS; i++)
        join("child", children[i]);
}

PROBE(shutdown_then_listen_again)
{
    int port = unused_port(), fd = listener_at(at(port), 5);
    TRY(shutdown(fd, SHUT_RD));
    say("accepting: %d", get(fd, SOL_SOCKET, SO_ACCEPTCONN));
    AS("connect", CONNECT(tcp(), at(port)));
    TRYFD(accept(fd, NULL, NULL));
    TRY(listen(fd, 5));
    say("same port: %d", port_of(fd) == port);
    int client = tcp();
    AS("connect again", CONNECT(client, at(port)));
    talk("talk", client, MUST(accept(fd, NULL, NULL)));
}

PROBE(flags_survive_shutdown)
{
    int fd = MUST(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    MUST(set(fd, IPPROTO_TCP, TCP_NODELAY, 1));
    MUST(set(fd, SOL_SOCKET, SO_KEEPALIVE, 1));
    MUST(BIND(fd, at(unused_port())));
    MUST(listen(fd, 5));
    MUST(shutdown(fd, SHUT_RD));
    say_flags("after shutdown", fd);
    MUST(listen(fd, 5));
    say_flags("after listen", fd);
    say("nodelay %d, keepalive %d", get(fd, IPPROTO_TCP, TCP_NODELAY), get(fd, SOL_SOCKET, SO_KEEPALIVE));
    TRY(accept(fd, NULL, NULL));
    int client = client_of(fd);
    poll_one(fd, POLLIN, 4000);
    talk("talk", client, MUST(accept(fd, NULL, NULL)));
}

PROBE(watched_across_shutdown)
{
    int fd = tcp_nonblocking(), copy = MUST(dup(fd)), ep = MUST(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 42}, out = {0};
    MUST(BIND(fd, at(unused_port())));
    MUST(listen(fd, 5));
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event));
    MUST(shutdown(fd, SHUT_RD));
    MUST(listen(fd, 5));
    int client = client_of(copy);
    say("events: %d", epoll_wait(ep, &out, 1, 4000));
    say("data: %d", (int)out.data.u64);
    talk("talk", client, MUST(accept(copy, NULL, NULL)));
}
