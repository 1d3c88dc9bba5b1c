/* shutdown(2), close(2), and what the other end sees. */
#include "probe.h"

PROBE(half_close)
{
    int ends[2];
    char text[8] = "";
    connection(ends);
    send_all(ends[0], "bye", 3);
    TRY(shutdown(ends[0], SHUT_WR));
    settle("server", ends[1], POLLRDHUP, POLLIN | POLLOUT | POLLRDHUP);
    TRY(recv(ends[1], text, sizeof text, 0));
    TRY(recv(ends[1], text, sizeof text, 0));
    TRY(write(ends[1], "still", 5));
    settle("client", ends[0], POLLIN, POLLIN | POLLRDHUP);
    TRY(recv(ends[0], text, sizeof text, 0));
    AS("client writes", send(ends[0], "x", 1, MSG_NOSIGNAL));
    TRY(shutdown(ends[1], SHUT_WR));
    settle("client in the end", ends[0], POLLHUP, POLLIN | POLLOUT | POLLRDHUP);
    TRY(recv(ends[0], text, sizeof text, 0));
}

PROBE(shutdown_reading)
{
    int ends[2];
    char text[8] = "";
    connection(ends);
    TRY(shutdown(ends[0], SHUT_RD));
    TRY(recv(ends[0], text, sizeof text, 0));
    EVENTS("poll", ends[0], POLLIN | POLLOUT | POLLRDHUP, 0);
    AS("it still writes", send(ends[0], "x", 1, MSG_NOSIGNAL));
    TRY(recv(ends[1], text, sizeof text, 0));
}

/* TCP goes on taking what comes after shutdown(SHUT_RD) here: nothing tells the peer. */
PROBE(writing_to_one_that_shut_reading)
{
    int ends[2];
    connection(ends);
    MUST(shutdown(ends[0], SHUT_RD));
    AS("the peer writes", send(ends[1], "x", 1, MSG_NOSIGNAL));
    EVENTS("the peer polls", ends[1], POLLIN | POLLOUT | POLLRDHUP, 0);
}

PROBE(both)
{
    int ends[2];
    char c;
    connection(ends);
    TRY(shutdown(ends[0], SHUT_RDWR));
    settle("server", ends[1], POLLRDHUP, POLLIN | POLLRDHUP);
    TRY(recv(ends[0], &c, 1, 0));
    TRY(recv(ends[1], &c, 1, 0));
    EVENTS("client", ends[0], POLLIN | POLLOUT | POLLRDHUP, 0);
    TRY(shutdown(ends[0], SHUT_WR));
}

PROBE(close_is_seen)
{
    int ends[2];
    char c;
    connection(ends);
    close(ends[0]);
    settle("readable", ends[1], POLLIN, POLLIN | POLLRDHUP);
    TRY(recv(ends[1], &c, 1, 0));
    TRY(recv(ends[1], &c, 1, 0));
}

PROBE(writing_to_a_closed_one)
{
    int ends[2], result = 0;
    connection(ends);
    close(ends[0]);
    poll_one(ends[1], POLLIN, 4000);
    for (int i = 0; i < 1000 && result >= 0; i++) {
        result = send(ends[1], "x", 1, MSG_NOSIGNAL);
        usleep(1000);
    }
    say("in the end: %s", errno == EPIPE || errno == ECONNRESET ? "EPIPE or ECONNRESET" : name_of_errno(errno));
}

PROBE(first_write_to_a_closed_one)
{
    int ends[2];
    connection(ends);
    close(ends[0]);
    poll_one(ends[1], POLLIN, 4000);
    AS("write", send(ends[1], "x", 1, MSG_NOSIGNAL));
}

PROBE(hangup_of_a_closed_one)
{
    int ends[2];
    connection(ends);
    close(ends[0]);
    settle("poll", ends[1], POLLRDHUP, POLLIN | POLLOUT | POLLRDHUP);
}

PROBE(closing_with_unread_data)
{
    int ends[2];
    char c;
    connection(ends);
    send_all(ends[0], "unread", 6);
    poll_one(ends[1], POLLIN, 4000);
    close(ends[1]);
    settle("poll", ends[0], POLLIN, POLLIN | POLLERR | POLLHUP | POLLRDHUP);
    AS("read", recv(ends[0], &c, 1, 0));
    AS("then", recv(ends[0], &c, 1, 0));
}

PROBE(data_before_the_end)
{
    int ends[2];
    char text[8] = "";
    connection(ends);
    send_all(ends[0], "last", 4);
    close(ends[0]);
    poll_one(ends[1], POLLRDHUP, 4000);
    TRY(recv(ends[1], text, sizeof text, 0));
    say("%s", text);
    TRY(recv(ends[1], text, sizeof text, 0));
}

PROBE(linger_zero)
{
    int ends[2];
    char c;
    struct linger l = {1, 0};
    connection(ends);
    MUST(setsockopt(ends[0], SOL_SOCKET, SO_LINGER, &l, sizeof l));
    struct sockaddr_storage name;
    socklen_t length = sizeof name;
    close(ends[0]);
    poll_one(ends[1], POLLIN, 4000);
    AS("its own name", getsockname(ends[1], (struct sockaddr *)&name, &length));
    AS("its peer's name", getpeername(ends[1], (struct sockaddr *)&name, &length));
    AS("read", recv(ends[1], &c, 1, 0));
}

PROBE(shutdown_unconnected)
{
    int bound = tcp();
    MUST(BIND(bound, at(0)));
    AS("fresh", shutdown(tcp(), SHUT_RD));
    AS("bound", shutdown(bound, SHUT_RDWR));
    AS("bad how", shutdown(bound, 3));
    AS("bad how", shutdown(bound, -1));
    AS("bad descriptor", shutdown(-1, SHUT_RD));
    AS("not a socket", shutdown(({ int p[2]; MUST(pipe(p)); p[0]; }), SHUT_RD));
}

PROBE(shutdown_a_listening_socket)
{
    int fd = listener();
    AS("SHUT_WR", shutdown(fd, SHUT_WR));
    say("accepting %d", get(fd, SOL_SOCKET, SO_ACCEPTCONN));
    int client = client_of(fd);
    talk("talk", client, MUST(accept(fd, NULL, NULL)));
    AS("SHUT_RD", shutdown(fd, SHUT_RD));
    say("accepting %d", get(fd, SOL_SOCKET, SO_ACCEPTCONN));
    EVENTS("poll", fd, POLLIN | POLLOUT | POLLRDHUP, 0);
    AS("again", shutdown(fd, SHUT_RD));
}

PROBE(shutdown_wakes_a_reader)
{
    int ends[2], me = getpid();
    char c;
    connection(ends);
    pid_t child = CHILD(until_asleep(me, me); MUST(shutdown(ends[0], SHUT_RD)));
    AS("read", recv(ends[0], &c, 1, 0));
    join("child", child);
}

PROBE(last_of_several_holders)
{
    int ends[2];
    char c;
    connection(ends);
    int copy = MUST(dup(ends[0]));
    close(ends[0]);
    EVENTS("one holder left", ends[1], POLLIN | POLLRDHUP, 50);
    close(copy);
    settle("none left", ends[1], POLLIN, POLLIN | POLLRDHUP);
    AS("read", recv(ends[1], &c, 1, 0));
}

PROBE(killed_process_closes)
{
    int ends[2];
    char c;
    connection(ends);
    pid_t child = CHILD(close(ends[1]); pause());
    close(ends[0]);
    kill(child, SIGKILL);
    join("child", child);
    settle("poll", ends[1], POLLIN, POLLIN | POLLRDHUP);
    AS("read", recv(ends[1], &c, 1, 0));
}

PROBE(killed_server_refuses)
{
    int tell[2], port;
    MUST(pipe(tell));
    pid_t child = CHILD(int fd = listener(); port = port_of(fd); MUST(write(tell[1], &port, sizeof port)); pause());
    MUST(read(tell[0], &port, sizeof port));
    AS("connect while it lives", CONNECT(tcp(), at(port)));
    kill(child, SIGKILL);
    join("child", child);
    AS("connect after it died", CONNECT(tcp(), at(port)));
    int fd = tcp();
    MUST(set(fd, SOL_SOCKET, SO_REUSEADDR, 1));
    AS("bind its port", BIND(fd, at(port)));
    AS("listen there", listen(fd, 5));
    AS("connect to the new one", CONNECT(tcp(), at(port)));
}
