/* select(2), poll(2) and epoll(7), with descriptors that are watched before they are connected or listen. */
#include "probe.h"

static int watched(int ep, int fd, unsigned events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event);
}

static int by_data(const void *one, const void *other)
{
    uint64_t a = ((const struct epoll_event *)one)->data.u64, b = ((const struct epoll_event *)other)->data.u64;
    return a < b ? -1 : a > b;
}

static void say_events(const char *label, int ep, int milliseconds)
{
    struct epoll_event events[8];
    int n = MUST(epoll_wait(ep, events, 8, milliseconds));
    say("%s: %d", label, n);
    qsort(events, n, sizeof *events, by_data);
    for (int i = 0; i < n; i++)
        say("  %s, data %llx", events_text(events[i].events), (unsigned long long)events[i].data.u64);
}

/* Take what is there now out of an edge-triggered queue. */
static void drain(int ep)
{
    struct epoll_event events[8];
    MUST(epoll_wait(ep, events, 8, 0));
}

PROBE(fresh)
{
    int ep = MUST(epoll_create1(0));
    TRY(watched(ep, tcp(), EPOLLIN | EPOLLOUT | EPOLLRDHUP, 1));
    say_events("wait", ep, 0);
}

PROBE(level_before_connect)
{
    int fd = listener(), client = tcp_nonblocking(), ep = MUST(epoll_create1(0));
    TRY(watched(ep, client, EPOLLIN | EPOLLOUT | EPOLLRDHUP, 0xabc));
    AS("connect", CONNECT(client, at(port_of(fd))));
    settle("poll", client, POLLOUT, POLLOUT);
    say_events("wait", ep, 4000);
    say("SO_ERROR %d", get(client, SOL_SOCKET, SO_ERROR));
    int served = MUST(accept(fd, NULL, NULL));
    send_all(served, "x", 1);
    settle("poll", client, POLLIN, POLLIN);
    say_events("with data", ep, 4000);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0xdef};
    AS("MOD", epoll_ctl(ep, EPOLL_CTL_MOD, client, &event));
    say_events("after MOD", ep, 4000);
    char c;
    recv_all(client, &c, 1);
    say_events("after reading", ep, 0);
    AS("DEL", epoll_ctl(ep, EPOLL_CTL_DEL, client, NULL));
    send_all(served, "x", 1);
    settle("poll", client, POLLIN, POLLIN);
    say_events("after DEL", ep, 0);
    AS("DEL again", epoll_ctl(ep, EPOLL_CTL_DEL, client, NULL));
    AS("ADD again", watched(ep, client, EPOLLIN, 5));
    AS("ADD twice", watched(ep, client, EPOLLIN, 5));
    say_events("after ADD", ep, 4000);
}

PROBE(level_before_blocking_connect)
{
    int fd = listener(), client = tcp(), ep = MUST(epoll_create1(0));
    TRY(watched(ep, client, EPOLLIN | EPOLLRDHUP, 77));
    AS("connect", CONNECT(client, at(port_of(fd))));
    int served = MUST(accept(fd, NULL, NULL));
    say_events("quiet", ep, 0);
    send_all(served, "x", 1);
    say_events("with data", ep, 4000);
}

PROBE(edge_before_connect)
{
    int fd = listener(), client = tcp_nonblocking(), ep = MUST(epoll_create1(0));
    TRY(watched(ep, client, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, 9));
    drain(ep);
    AS("connect", CONNECT(client, at(port_of(fd))));
    say_events("connected", ep, 4000);
    int served = MUST(accept(fd, NULL, NULL));
    drain(ep);
    say_events("no edge", ep, 0);
    send_all(served, "x", 1);
    settle("poll", client, POLLIN, POLLIN);
    say_events("data", ep, 4000);
    say_events("no edge", ep, 0);
    send_all(served, "y", 1);
    say_events("more data", ep, 4000);
    char text[4];
    recv_all(client, text, 2);
    shutdown(served, SHUT_WR);
    say_events("the end", ep, 4000);
}

PROBE(edge_refused)
{
    int client = tcp_nonblocking(), ep = MUST(epoll_create1(0));
    TRY(watched(ep, client, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, 9));
    drain(ep);
    AS("connect", CONNECT(client, at(unused_port())));
    say_events("refused", ep, 4000);
    say("SO_ERROR %s", name_of_errno(get(client, SOL_SOCKET, SO_ERROR)));
}

PROBE(oneshot_before_connect)
{
    int fd = listener(), client = tcp_nonblocking(), ep = MUST(epoll_create1(0));
    AS("connect", CONNECT(client, at(port_of(fd))));
    TRY(watched(ep, client, EPOLLOUT | EPOLLONESHOT, 3));
    say_events("first", ep, 4000);
    say_events("used up", ep, 0);
    struct epoll_event event = {.events = EPOLLOUT | EPOLLONESHOT, .data.u64 = 4};
    AS("MOD", epoll_ctl(ep, EPOLL_CTL_MOD, client, &event));
    say_events("armed again", ep, 4000);
    int other = tcp_nonblocking();
    AS("ADD before connect", watched(ep, other, EPOLLIN | EPOLLONESHOT, 5));
    drain(ep);
    event.events = EPOLLIN | EPOLLONESHOT;
    event.data.u64 = 6;
    AS("connect", CONNECT(other, at(port_of(fd))));
    AS("MOD", epoll_ctl(ep, EPOLL_CTL_MOD, other, &event));
    MUST(accept(fd, NULL, NULL));
    send_all(MUST(accept(fd, NULL, NULL)), "x", 1);
    say_events("data", ep, 4000);
}

PROBE(listening_level)
{
    int fd = tcp_nonblocking(), ep = MUST(epoll_create1(0));
    MUST(BIND(fd, at(0)));
    TRY(listen(fd, 5));
    TRY(watched(ep, fd, EPOLLIN, 1));
    say_events("quiet", ep, 0);
    client_of(fd);
    say_events("one", ep, 4000);
    say_events("still", ep, 0);
    ASFD("accept", accept(fd, NULL, NULL));
    say_events("quiet", ep, 0);
    client_of(fd);
    say_events("two", ep, 4000);
    ASFD("accept", accept(fd, NULL, NULL));
}

PROBE(listening_watched_before_listen)
{
    int fd = tcp_nonblocking(), ep = MUST(epoll_create1(0));
    TRY(watched(ep, fd, EPOLLIN, 1));
    MUST(BIND(fd, at(0)));
    TRY(listen(fd, 5));
    say_events("quiet", ep, 0);
    client_of(fd);
    say_events("one", ep, 4000);
    ASFD("accept", accept(fd, NULL, NULL));
    say_events("quiet", ep, 0);
    AS("accept", accept(fd, NULL, NULL));
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 2};
    AS("MOD", epoll_ctl(ep, EPOLL_CTL_MOD, fd, &event));
    client_of(fd);
    say_events("after MOD", ep, 4000);
    AS("DEL", epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL));
    say_events("after DEL", ep, 0);
}

PROBE(listening_edge)
{
    int fd = tcp_nonblocking(), ep = MUST(epoll_create1(0));
    MUST(BIND(fd, at(0)));
    TRY(watched(ep, fd, EPOLLIN | EPOLLET, 1));
    TRY(listen(fd, 5));
    drain(ep);
    client_of(fd);
    client_of(fd);
    say_events("an edge", ep, 4000);
    say_events("no more", ep, 0);
    int served = 0;
    while (accept(fd, NULL, NULL) >= 0)
        served++;
    say("served %d", served);
    client_of(fd);
    say_events("another edge", ep, 4000);
    ASFD("accept", accept(fd, NULL, NULL));
}

PROBE(listening_edge_left_over)
{
    /* a server that takes one connection per edge is told of each arrival */
    int fd = tcp_nonblocking(), ep = MUST(epoll_create1(0));
    MUST(BIND(fd, at(0)));
    MUST(listen(fd, 5));
    TRY(watched(ep, fd, EPOLLIN | EPOLLET, 1));
    for (int i = 0; i < 3; i++) {
        client_of(fd);
        say_events("an edge", ep, 4000);
        ASFD("accept", accept(fd, NULL, NULL));
    }
}

PROBE(listening_oneshot)
{
    int fd = tcp_nonblocking(), ep = MUST(epoll_create1(0));
    MUST(BIND(fd, at(0)));
    MUST(listen(fd, 5));
    TRY(watched(ep, fd, EPOLLIN | EPOLLONESHOT, 1));
    client_of(fd);
    say_events("one", ep, 4000);
    client_of(fd);
    say_events("used up", ep, 50);
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 2};
    TRY(epoll_ctl(ep, EPOLL_CTL_MOD, fd, &event));
    say_events("armed again", ep, 4000);
}

PROBE(listening_exclusive)
{
    enum { CHILDREN = 4, CLIENTS = 40 };
    int fd = listener(), tell[2];
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    MUST(pipe(tell));
    for (int i = 0; i < CHILDREN; i++)
        CHILD(int ep = MUST(epoll_create1(0)); MUST(watched(ep, fd, EPOLLIN | EPOLLEXCLUSIVE, 1)); for (;;) {
            struct epoll_event event;
            MUST(epoll_wait(ep, &event, 1, -1));
            int one = accept(fd, NULL, NULL);
            if (one < 0 && errno == EAGAIN)
                continue;
            MUST(one);
            MUST(write(tell[1], "+", 1));
            close(one);
        });
    for (int i = 0; i < CLIENTS; i++) {
        char c;
        int client = client_of(fd);
        MUST(read(tell[0], &c, 1));
        close(client);
    }
    say("all served");
}

PROBE(two_sets)
{
    int fd = listener(), client = tcp_nonblocking(), one = MUST(epoll_create1(0)), two = MUST(epoll_create1(0));
    TRY(watched(one, client, EPOLLOUT, 1));
    TRY(watched(two, client, EPOLLIN, 2));
    AS("connect", CONNECT(client, at(port_of(fd))));
    settle("poll", client, POLLOUT, POLLOUT);
    send_all(MUST(accept(fd, NULL, NULL)), "x", 1);
    settle("poll", client, POLLIN, POLLIN);
    say_events("one", one, 4000);
    say_events("two", two, 4000);
}

PROBE(set_within_a_set)
{
    int fd = listener(), client = tcp_nonblocking(), inner = MUST(epoll_create1(0)), outer = MUST(epoll_create1(0));
    TRY(watched(inner, client, EPOLLIN, 1));
    TRY(watched(outer, inner, EPOLLIN, 2));
    drain(inner);
    AS("connect", CONNECT(client, at(port_of(fd))));
    settle("poll", client, POLLOUT, POLLOUT);
    int served = MUST(accept(fd, NULL, NULL));
    say_events("outer", outer, 0);
    send_all(served, "x", 1);
    say_events("outer", outer, 4000);
    say_events("inner", inner, 4000);
}

PROBE(copies_in_a_set)
{
    int fd = listener(), client = tcp_nonblocking(), copy = MUST(dup(client)), ep = MUST(epoll_create1(0));
    TRY(watched(ep, client, EPOLLIN, 1));
    TRY(watched(ep, copy, EPOLLIN, 2));
    AS("connect", CONNECT(client, at(port_of(fd))));
    settle("poll", client, POLLOUT, POLLOUT);
    send_all(MUST(accept(fd, NULL, NULL)), "x", 1);
    settle("poll", copy, POLLIN, POLLIN);
    say_events("both", ep, 4000);
    AS("DEL", epoll_ctl(ep, EPOLL_CTL_DEL, client, NULL));
    close(client);
    say_events("the copy", ep, 4000);
}

PROBE(closed_leaves_the_set)
{
    int fd = listener(), client = tcp_nonblocking(), ep = MUST(epoll_create1(0));
    TRY(watched(ep, client, EPOLLIN | EPOLLOUT, 1));
    AS("connect", CONNECT(client, at(port_of(fd))));
    settle("poll", client, POLLOUT, POLLOUT);
    close(client);
    say_events("wait", ep, 0);
    int next = tcp_nonblocking();
    say("same number %d", next == client);
    AS("ADD under the same number", watched(ep, next, EPOLLOUT, 2));
    AS("connect", CONNECT(next, at(port_of(fd))));
    settle("poll", next, POLLOUT, POLLOUT);
    say_events("wait", ep, 4000);
}

PROBE(child_waits)
{
    int fd = listener(), client = tcp_nonblocking(), ep = MUST(epoll_create1(0));
    TRY(watched(ep, client, EPOLLIN, 1));
    drain(ep);
    AS("connect", CONNECT(client, at(port_of(fd))));
    settle("poll", client, POLLOUT, POLLOUT);
    int served = MUST(accept(fd, NULL, NULL));
    pid_t child = CHILD(say_events("child", ep, 4000));
    send_all(served, "x", 1);
    join("child", child);
}

static void *polls(void *argument)
{
    int *state = argument;
    struct epoll_event event;
    ((volatile int *)state)[1] = gettid_();
    state[2] = epoll_wait(state[0], &event, 1, 4000) == 1 ? (int)event.events : -1;
    return NULL;
}

PROBE(another_thread_waits_during_connect)
{
    int fd = listener(), client = tcp_nonblocking(), state[3] = {MUST(epoll_create1(0)), 0, 0};
    pthread_t thread;
    AS("ADD", watched(state[0], client, EPOLLOUT | EPOLLET, 1));
    drain(state[0]);
    pthread_create(&thread, NULL, polls, state);
    while (!*(volatile int *)&state[1])
        usleep(1000);
    until_asleep(getpid(), state[1]);
    AS("connect", CONNECT(client, at(port_of(fd))));
    pthread_join(thread, NULL);
    say("thread saw %s", state[2] < 0 ? "nothing" : events_text(state[2]));
}

PROBE(another_thread_waits_for_arrivals)
{
    int fd = tcp(), state[3] = {MUST(epoll_create1(0)), 0, 0};
    pthread_t thread;
    MUST(BIND(fd, at(0)));
    MUST(listen(fd, 5));
    AS("ADD", watched(state[0], fd, EPOLLIN, 1));
    pthread_create(&thread, NULL, polls, state);
    while (!*(volatile int *)&state[1])
        usleep(1000);
    until_asleep(getpid(), state[1]);
    client_of(fd);
    pthread_join(thread, NULL);
    say("thread saw %s", state[2] < 0 ? "nothing" : events_text(state[2]));
}

PROBE(poll_listening)
{
    int fd = listener(), me = getpid(), port = port_of(fd);
    EVENTS("quiet", fd, POLLIN | POLLOUT | POLLRDHUP, 0);
    pid_t child = CHILD(close(fd); until_asleep(me, me); int c = tcp(); MUST(CONNECT(c, at(port))); char b; recv_all(c, &b, 1));
    EVENTS("with a client", fd, POLLIN | POLLOUT | POLLRDHUP, 4000);
    send_all(MUST(accept(fd, NULL, NULL)), "x", 1);
    EVENTS("quiet again", fd, POLLIN | POLLOUT | POLLRDHUP, 0);
    join("client", child);
}

PROBE(poll_waits_for_refusal)
{
    int client = tcp_nonblocking();
    AS("connect", CONNECT(client, at(unused_port())));
    EVENTS("asked for nothing", client, 0, 4000);
}

PROBE(select_listening)
{
    int fd = listener();
    fd_set set;
    struct timeval none = {0, 0}, limit = {4, 0};
    FD_ZERO(&set);
    FD_SET(fd, &set);
    AS("quiet", select(fd + 1, &set, NULL, NULL, &none));
    client_of(fd);
    FD_SET(fd, &set);
    AS("with a client", select(fd + 1, &set, NULL, NULL, &limit));
    say("readable %d", FD_ISSET(fd, &set) != 0);
    ASFD("accept", accept(fd, NULL, NULL));
    FD_SET(fd, &set);
    none = (struct timeval){0, 0};
    AS("quiet again", select(fd + 1, &set, NULL, NULL, &none));
}

PROBE(poll_many)
{
    enum { COUNT = 50 };
    int fd = listener();
    struct pollfd all[COUNT];
    for (int i = 0; i < COUNT; i++) {
        all[i] = (struct pollfd){.fd = tcp_nonblocking(), .events = POLLOUT};
        CONNECT(all[i].fd, at(port_of(fd)));
    }
    for (int i = 0; i < COUNT; i++)
        MUST(accept(fd, NULL, NULL));
    int ready = 0;
    double end = now() + 4;
    while (ready < COUNT && now() < end)
        ready = poll(all, COUNT, 100);
    int clean = 0;
    for (int i = 0; i < COUNT; i++)
        clean += all[i].revents == POLLOUT;
    say("ready %d, clean %d", ready, clean);
}

PROBE(proxy)
{
    /* nginx's way: accept, connect onwards, everything in one edge-triggered set, registered before connect */
    int front = listener(), back = listener(), ep = MUST(epoll_create1(0)), port = port_of(back);
    MUST(fcntl(front, F_SETFL, O_NONBLOCK));
    MUST(watched(ep, front, EPOLLIN | EPOLLRDHUP, (uint64_t)front));
    pid_t server = CHILD(for (int i = 0; i < 20; i++) {
        int one = MUST(accept(back, NULL, NULL));
        char text[6];
        recv_all(one, text, 6);
        send_all(one, text, 6);
        close(one);
    });
    pid_t client = CHILD(for (int i = 0; i < 20; i++) {
        int one = tcp();
        char text[7] = "";
        MUST(CONNECT(one, at(port_of(front))));
        snprintf(text, sizeof text, "msg%03d", i);
        send_all(one, text, 6);
        char got[7] = "";
        recv_all(one, got, 6);
        if (strcmp(text, got))
            die("another answer");
        close(one);
    });
    int done = 0, peer[1024] = {0}, rounds = 0;
    while (done < 20 && rounds++ < 2000) {
        struct epoll_event events[8];
        int n = MUST(epoll_wait(ep, events, 8, 4000));
        if (!n)
            break;
        for (int i = 0; i < n; i++) {
            int fd = (int)events[i].data.u64, one;
            if (fd == front) {
                while ((one = accept4(front, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    int up = tcp_nonblocking();
                    peer[one] = up;
                    peer[up] = one;
                    MUST(watched(ep, up, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, (uint64_t)up));
                    CONNECT(up, at(port));
                    MUST(watched(ep, one, EPOLLIN | EPOLLRDHUP | EPOLLET, (uint64_t)one));
                }
                continue;
            }
            /* whichever end has something: move it both ways, as far as it goes */
            int ends[2] = {fd, peer[fd]};
            for (int way = 0; way < 2 && peer[fd]; way++) {
                char text[64];
                if (!(poll_one(ends[1 - way], POLLOUT, 0) & POLLOUT))
                    continue;
                ssize_t got = recv(ends[way], text, sizeof text, MSG_DONTWAIT);
                if (got > 0)
                    send_all(ends[1 - way], text, got);
                else if (got == 0) {
                    peer[ends[0]] = peer[ends[1]] = 0;
                    close(ends[0]);
                    close(ends[1]);
                    done++;
                }
            }
        }
    }
    say("done %d", done);
    join("client", client);
    join("server", server);
}
