/* connect(2) that does not wait, and everything that tells how it went. */
#include "probe.h"

PROBE(established)
{
    int fd = listener(), client = tcp_nonblocking();
    addr_t to = at(port_of(fd));
    AS("connect", connect(client, &to.sa, to.len));
    settle("poll", client, POLLOUT, POLLIN | POLLOUT | POLLRDHUP);
    say("SO_ERROR: %d", get(client, SOL_SOCKET, SO_ERROR));
    AS("connect again", connect(client, &to.sa, to.len));
    AS("and again", connect(client, &to.sa, to.len));
    int served = MUST(accept(fd, NULL, NULL));
    talk("talk", client, served);
    say_flags("flags", client);
}

PROBE(refused_seen_by_so_error)
{
    int client = tcp_nonblocking();
    addr_t to = at(unused_port());
    AS("connect", connect(client, &to.sa, to.len));
    settle("poll", client, POLLOUT, POLLIN | POLLOUT | POLLRDHUP);
    say("SO_ERROR: %s", name_of_errno(get(client, SOL_SOCKET, SO_ERROR)));
    say("SO_ERROR again: %s", name_of_errno(get(client, SOL_SOCKET, SO_ERROR)));
    say_peername("peername", client);
}

PROBE(refused_seen_by_connect)
{
    int client = tcp_nonblocking();
    addr_t to = at(unused_port());
    AS("connect", connect(client, &to.sa, to.len));
    settle("poll", client, POLLOUT, POLLIN | POLLOUT | POLLRDHUP);
    AS("connect again", connect(client, &to.sa, to.len));
    say("SO_ERROR: %s", name_of_errno(get(client, SOL_SOCKET, SO_ERROR)));
}

PROBE(refused_seen_by_read)
{
    int client = tcp_nonblocking();
    char c;
    AS("connect", CONNECT(client, at(unused_port())));
    settle("poll", client, POLLOUT, POLLIN | POLLOUT | POLLRDHUP);
    AS("read", read(client, &c, 1));
}

PROBE(refused_then_established)
{
    int client = tcp_nonblocking(), fd = listener();
    AS("connect", CONNECT(client, at(unused_port())));
    settle("poll", client, POLLOUT, POLLIN | POLLOUT | POLLRDHUP);
    AS("connect elsewhere tells the old news", CONNECT(client, at(port_of(fd))));
    AS("connect elsewhere", CONNECT(client, at(port_of(fd))));
    settle("poll", client, POLLOUT, POLLIN | POLLOUT | POLLRDHUP);
    talk("talk", client, MUST(accept(fd, NULL, NULL)));
}

PROBE(without_polling)
{
    int fd = listener(), client = tcp_nonblocking();
    addr_t to = at(port_of(fd));
    int tries = 0, result;
    while ((result = connect(client, &to.sa, to.len)) < 0 && errno != EISCONN && tries++ < 1000)
        usleep(1000);
    say("ends with %s", result == 0 ? "0" : name_of_errno(errno));
    AS("then", connect(client, &to.sa, to.len));
}

PROBE(already)
{
    int fd = full_listener(), client = tcp_nonblocking();
    addr_t to = at(port_of(fd));
    AS("connect", connect(client, &to.sa, to.len));
    AS("again", connect(client, &to.sa, to.len));
    EVENTS("poll", client, POLLIN | POLLOUT | POLLRDHUP, 0);
    say("SO_ERROR: %d", get(client, SOL_SOCKET, SO_ERROR));
    say_peername("peername", client);
    int served = accept_from(fd, client);
    settle("poll in the end", client, POLLOUT, POLLIN | POLLOUT | POLLRDHUP);
    say("SO_ERROR: %d", get(client, SOL_SOCKET, SO_ERROR));
    talk("talk", client, served);
}

PROBE(given_up)
{
    /* a connect in progress whose socket is closed leaves nothing that harms the next one */
    int fd = full_listener(), client = tcp_nonblocking(), next = tcp_nonblocking();
    AS("connect", CONNECT(client, at(port_of(fd))));
    close(client);
    AS("the next", CONNECT(next, at(port_of(fd))));
    talk("talk", next, accept_from(fd, next));
}

PROBE(write_at_once)
{
    int fd = listener(), client = tcp_nonblocking();
    char text[8] = "";
    AS("connect", CONNECT(client, at(port_of(fd))));
    settle("poll", client, POLLOUT, POLLIN | POLLOUT);
    TRY(write(client, "hello", 5));
    int served = MUST(accept(fd, NULL, NULL));
    recv_all(served, text, 5);
    say("text: %s", text);
}

PROBE(made_nonblocking_by_ioctl)
{
    int fd = listener(), client = tcp(), on = 1;
    MUST(ioctl(client, FIONBIO, &on));
    AS("connect", CONNECT(client, at(port_of(fd))));
    settle("poll", client, POLLOUT, POLLIN | POLLOUT);
    AS("accept", accept(fd, NULL, NULL) < 0 ? -1 : 0);
}

PROBE(names_after)
{
    int fd = listener(), client = tcp_nonblocking();
    AS("connect", CONNECT(client, at(port_of(fd))));
    say_sockname("sockname at once", client);
    settle("poll", client, POLLOUT, POLLOUT);
    say_sockname("sockname", client);
    say_peername("peername", client);
    addr_t from = {.len = sizeof from.ss};
    MUST(accept(fd, &from.sa, &from.len));
    say("same port: %d", port_in(&from) == port_of(client));
}

PROBE(many_at_once)
{
    enum { COUNT = 100 };
    int fd = listener(), clients[COUNT], in_progress = 0, up = 0, served = 0;
    for (int i = 0; i < COUNT; i++) {
        clients[i] = tcp_nonblocking();
        in_progress += CONNECT(clients[i], at(port_of(fd))) < 0 && errno == EINPROGRESS;
    }
    while (served < COUNT) {
        MUST(accept(fd, NULL, NULL));
        served++;
    }
    for (int i = 0; i < COUNT; i++)
        up += (poll_one(clients[i], POLLOUT, 2000) & POLLOUT) && get(clients[i], SOL_SOCKET, SO_ERROR) == 0;
    say("in progress %d, served %d, up %d", in_progress, served, up);
}

PROBE(blocking_again_after)
{
    int fd = listener(), client = tcp_nonblocking();
    AS("connect", CONNECT(client, at(port_of(fd))));
    settle("poll", client, POLLOUT, POLLOUT);
    MUST(fcntl(client, F_SETFL, 0));
    AS("blocking connect", CONNECT(client, at(port_of(fd))));
    AS("and again", CONNECT(client, at(port_of(fd))));
    talk("talk", client, MUST(accept(fd, NULL, NULL)));
}

PROBE(select_for_writing)
{
    int fd = listener(), client = tcp_nonblocking();
    fd_set write_set, error_set;
    struct timeval limit = {4, 0};
    AS("connect", CONNECT(client, at(port_of(fd))));
    FD_ZERO(&write_set);
    FD_ZERO(&error_set);
    FD_SET(client, &write_set);
    FD_SET(client, &error_set);
    AS("select", select(client + 1, NULL, &write_set, &error_set, &limit));
    say("writable %d, exception %d", FD_ISSET(client, &write_set) != 0, FD_ISSET(client, &error_set) != 0);
}

PROBE(listening_on_a_nonblocking_socket)
{
    int fd = tcp_nonblocking();
    MUST(BIND(fd, at(0)));
    MUST(listen(fd, 5));
    AS("accept", accept(fd, NULL, NULL));
    int client = client_of(fd);
    settle("poll", fd, POLLIN, POLLIN | POLLOUT);
    int served = ASFD("accept", accept(fd, NULL, NULL));
    say_flags("accepted", served);
    AS("accept", accept(fd, NULL, NULL));
    talk("talk", client, served);
}
