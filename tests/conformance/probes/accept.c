/* accept(2) and accept4(2). */
#include "probe.h"

PROBE(buffers_that_nobody_has_set)
{
    int fd = listener(), client = client_of(fd), served = MUST(accept(fd, NULL, NULL));
    say("sizes that were set: %d %d %d", get(fd, SOL_SOCKET, 72), get(client, SOL_SOCKET, 72),
        get(served, SOL_SOCKET, 72)); /* SO_BUF_LOCK */
}

PROBE(plain)
{
    int fd = listener(), client = client_of(fd);
    addr_t from = {.len = sizeof from.ss};
    int served = ASFD("accept", accept(fd, &from.sa, &from.len));
    say_addr("from", &from);
    addr_t mine = sockname(client);
    say("the client's port: %d", port_in(&mine) == port_in(&from));
    say_flags("flags", served);
    say_sockname("sockname", served);
    say_peername("peername", served);
    talk("talk", client, served);
}

PROBE(waits)
{
    int fd = listener(), port = port_of(fd), me = gettid_(), parent = getpid();
    pid_t child = CHILD(close(fd); until_asleep(parent, me); MUST(CONNECT(tcp(), at(port))));
    addr_t from = {.len = sizeof from.ss};
    ASFD("accept", accept(fd, &from.sa, &from.len));
    say_addr("from", &from);
    join("client", child);
}

PROBE(flags)
{
    int fd = listener();
    static const int flags[] = {0, SOCK_NONBLOCK, SOCK_CLOEXEC, SOCK_NONBLOCK | SOCK_CLOEXEC};
    for (size_t i = 0; i < 4; i++) {
        client_of(fd);
        say_flags("accepted", MUST(accept4(fd, NULL, NULL, flags[i])));
    }
    client_of(fd);
    TRY(accept4(fd, NULL, NULL, 1));
    TRY(accept4(fd, NULL, NULL, O_RDWR));
    TRY(accept4(fd, NULL, NULL, -1));
    ASFD("still there", accept4(fd, NULL, NULL, 0));
}

PROBE(not_inherited)
{
    int fd = listener();
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK | O_ASYNC));
    MUST(fcntl(fd, F_SETFD, FD_CLOEXEC));
    client_of(fd);
    poll_one(fd, POLLIN, 4000);
    say_flags("accepted", MUST(accept(fd, NULL, NULL)));
}

PROBE(options_inherited)
{
    int fd = listener();
    struct linger linger = {1, 7};
    struct timeval t = {4, 0};
    MUST(set(fd, IPPROTO_TCP, TCP_NODELAY, 1));
    MUST(set(fd, SOL_SOCKET, SO_KEEPALIVE, 1));
    MUST(set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 61));
    MUST(set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 62));
    MUST(set(fd, IPPROTO_TCP, TCP_KEEPCNT, 6));
    MUST(set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 12345));
    MUST(set(fd, SOL_SOCKET, SO_RCVBUF, 60000));
    MUST(set(fd, SOL_SOCKET, SO_SNDBUF, 50000));
    MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    client_of(fd);
    int served = MUST(accept(fd, NULL, NULL));
    say("nodelay %d, keepalive %d", get(served, IPPROTO_TCP, TCP_NODELAY), get(served, SOL_SOCKET, SO_KEEPALIVE));
    say("idle %d, interval %d, count %d, user time-out %d", get(served, IPPROTO_TCP, TCP_KEEPIDLE),
        get(served, IPPROTO_TCP, TCP_KEEPINTVL), get(served, IPPROTO_TCP, TCP_KEEPCNT),
        get(served, IPPROTO_TCP, TCP_USER_TIMEOUT));
    say("rcvbuf %d, sndbuf %d", get(served, SOL_SOCKET, SO_RCVBUF), get(served, SOL_SOCKET, SO_SNDBUF));
    socklen_t length = sizeof linger;
    MUST(getsockopt(served, SOL_SOCKET, SO_LINGER, &linger, &length));
    say("linger %d %d", linger.l_onoff, linger.l_linger);
    length = sizeof t;
    MUST(getsockopt(served, SOL_SOCKET, SO_RCVTIMEO, &t, &length));
    say("receive time-out %ld", (long)t.tv_sec);
    say("reuseaddr %d", get(served, SOL_SOCKET, SO_REUSEADDR));
}

PROBE(address_lengths)
{
    static const int lengths[] = {0, 1, 2, 4, 15, 16, 27, 28, 128, 1000};
    int fd = listener();
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        unsigned char raw[1024];
        socklen_t length = lengths[i];
        memset(raw, 0xee, sizeof raw);
        int client = client_of(fd), served = MUST(accept(fd, (struct sockaddr *)raw, &length));
        addr_t whole = peername(served);
        socklen_t given = (socklen_t)lengths[i] < whole.len ? (socklen_t)lengths[i] : whole.len;
        say("%d: length %d, prefix right %d, next untouched %d", lengths[i], (int)length,
            memcmp(raw, whole.raw, given) == 0, raw[given] == 0xee);
        close(client);
        close(served);
    }
}

PROBE(null_address)
{
    int fd = listener();
    socklen_t length = 77;
    client_of(fd);
    ASFD("both NULL", accept(fd, NULL, NULL));
    client_of(fd);
    ASFD("NULL with a length", accept(fd, NULL, &length));
    say("length %d", (int)length);
}

PROBE(bad_address)
{
    addr_t from = {.len = sizeof from.ss};
    socklen_t negative = -1;
    int fd = listener();
    client_of(fd);
    TRY(accept(fd, &from.sa, NULL));
    fd = listener();
    client_of(fd);
    TRY(accept(fd, &from.sa, &negative));
    fd = listener();
    client_of(fd);
    TRY(accept(fd, (struct sockaddr *)8, &from.len));
    fd = listener();
    client_of(fd);
    TRY(accept(fd, &from.sa, (socklen_t *)8));
}

PROBE(bad_descriptors)
{
    int ends[2], pipes[2], datagram = MUST(socket(family, SOCK_DGRAM, 0)), bound = tcp();
    connection(ends);
    MUST(pipe(pipes));
    MUST(BIND(bound, at(0)));
    AS("fresh", accept(tcp(), NULL, NULL));
    AS("bound", accept(bound, NULL, NULL));
    AS("client", accept(ends[0], NULL, NULL));
    AS("server", accept(ends[1], NULL, NULL));
    AS("datagram", accept(datagram, NULL, NULL));
    AS("pipe", accept(pipes[0], NULL, NULL));
    AS("-1", accept(-1, NULL, NULL));
    AS("999", accept(999, NULL, NULL));
}

PROBE(nothing_there)
{
    int fd = listener();
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    TRY(accept(fd, NULL, NULL));
    TRY(accept4(fd, NULL, NULL, SOCK_CLOEXEC));
    EVENTS("poll", fd, POLLIN | POLLOUT | POLLRDHUP, 0);
}

PROBE(receive_timeout)
{
    int fd = listener();
    struct timeval t = {0, 200000};
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    double start = now();
    TRY(accept(fd, NULL, NULL));
    double took = now() - start;
    say("waited: %d", took > 0.15 && took < 2);
    client_of(fd);
    ASFD("with a client", accept(fd, NULL, NULL));
    start = now();
    TRY(accept(fd, NULL, NULL));
    took = now() - start;
    say("waited again: %d", took > 0.15 && took < 2);
}

PROBE(in_order)
{
    enum { COUNT = 20 };
    int fd = listener(), clients[COUNT], right = 0;
    for (int i = 0; i < COUNT; i++)
        clients[i] = client_of(fd);
    for (int i = 0; i < COUNT; i++) {
        addr_t from = {.len = sizeof from.ss};
        MUST(accept(fd, &from.sa, &from.len));
        right += port_in(&from) == port_of(clients[i]);
    }
    say("first come, first served: %d of %d", right, COUNT);
}

PROBE(distinct_ports)
{
    enum { COUNT = 50 };
    int fd = listener(), ports[COUNT], twice = 0;
    for (int i = 0; i < COUNT; i++) {
        int client = client_of(fd);
        ports[i] = port_of(client);
        for (int j = 0; j < i; j++)
            twice += ports[j] == ports[i];
        MUST(accept(fd, NULL, NULL));
    }
    say("two clients with one port: %d", twice);
}

PROBE(descriptors_exhausted)
{
    int fd = listener(), client = client_of(fd), top = MUST(dup(fd));
    struct rlimit limit = {top + 1, top + 1};
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    TRY(accept(fd, NULL, NULL));
    EVENTS("the client still waits", fd, POLLIN, 0);
    close(top);
    int served = ASFD("accept", accept(fd, NULL, NULL));
    talk("talk", client, served);
}

PROBE(shutdown_wakes)
{
    int fd = listener(), me = gettid_(), parent = getpid();
    pid_t child = CHILD(until_asleep(parent, me); AS("shutdown", shutdown(fd, SHUT_RDWR)));
    int result = accept(fd, NULL, NULL), error = errno;
    join("child", child);
    errno = error;
    AS("accept", result);
    TRY(accept(fd, NULL, NULL));
}

static void *accepting(void *argument)
{
    int *state = argument;
    state[1] = gettid_();
    int got = accept(state[0], NULL, NULL);
    state[2] = got < 0 ? -errno : got;
    return NULL;
}

PROBE(shutdown_wakes_a_thread)
{
    int state[3] = {listener(), 0, 0};
    pthread_t thread;
    pthread_create(&thread, NULL, accepting, state);
    while (!*(volatile int *)&state[1])
        usleep(1000);
    until_asleep(getpid(), state[1]);
    TRY(shutdown(state[0], SHUT_RD));
    pthread_join(thread, NULL);
    say("accept: %s", name_of_errno(-state[2]));
}

PROBE(closed_by_another_thread)
{
    /* The one that waits keeps the socket: it gets the next connection. */
    int state[3] = {listener(), 0, 0}, port = port_of(state[0]);
    pthread_t thread;
    pthread_create(&thread, NULL, accepting, state);
    while (!*(volatile int *)&state[1])
        usleep(1000);
    until_asleep(getpid(), state[1]);
    TRY(close(state[0]));
    int client = tcp();
    AS("connect", CONNECT(client, at(port)));
    pthread_join(thread, NULL);
    say("accept: %s", state[2] >= 0 ? "ok" : name_of_errno(-state[2]));
}

PROBE(several_threads)
{
    enum { COUNT = 4 };
    int fd = listener(), states[COUNT][3] = {0}, served = 0;
    pthread_t threads[COUNT];
    for (int i = 0; i < COUNT; i++) {
        states[i][0] = fd;
        pthread_create(&threads[i], NULL, accepting, states[i]);
        while (!*(volatile int *)&states[i][1])
            usleep(1000);
        until_asleep(getpid(), states[i][1]);
    }
    for (int i = 0; i < COUNT; i++)
        client_of(fd);
    for (int i = 0; i < COUNT; i++) {
        pthread_join(threads[i], NULL);
        served += states[i][2] >= 0;
    }
    say("served: %d", served);
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    TRY(accept(fd, NULL, NULL));
}

PROBE(several_processes)
{
    enum { COUNT = 4 };
    int fd = listener();
    pid_t children[COUNT];
    for (int i = 0; i < COUNT; i++)
        children[i] = CHILD(int one = MUST(accept(fd, NULL, NULL)); send_all(one, "x", 1));
    for (int i = 0; i < COUNT; i++) {
        char c;
        recv_all(client_of(fd), &c, 1);
    }
    for (int i = 0; i < COUNT; i++)
        join("child", children[i]);
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    TRY(accept(fd, NULL, NULL));
}

PROBE(nonblocking_race)
{
    /* two processes see the same event; one of them gets EAGAIN, none hangs */
    int fd = listener(), port = port_of(fd), result[2];
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    MUST(pipe(result));
    for (int i = 0; i < 2; i++)
        CHILD(for (int round = 0; round < 20; round++) {
            if (!poll_one(fd, POLLIN, 4000))
                die("no event");
            int one = accept(fd, NULL, NULL);
            if (one < 0 && errno != EAGAIN)
                die("accept");
            MUST(write(result[1], one < 0 ? "-" : "+", 1));
            if (one < 0)
                round--;
            else
                close(one);
        });
    int served = 0;
    for (int i = 0; i < 40; i++)
        close(({ int c = tcp(); MUST(CONNECT(c, at(port))); c; }));
    while (served < 40) {
        char c;
        MUST(read(result[0], &c, 1));
        served += c == '+';
    }
    say("served: %d", served);
}

PROBE(reset_before_accept)
{
    int fd = listener(), client = client_of(fd);
    struct linger linger = {1, 0};
    char c;
    MUST(setsockopt(client, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    close(client);
    poll_one(fd, POLLIN, 4000);
    int served = ASFD("accept", accept(fd, NULL, NULL));
    AS("read", read(served, &c, 1));
}
