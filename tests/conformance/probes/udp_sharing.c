/* UDP sockets that are watched, copied, handed on, shared by threads, interrupted. */
#include "udp.h"

static void watch(int ep, int fd, unsigned events) {
    struct epoll_event event = {.events = events, .data.u64 = 7};
    AS("watch", epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event));
}

static void say_epoll(const char *label, int ep, int milliseconds) {
    struct epoll_event event = {0};
    int n = MUST(epoll_wait(ep, &event, 1, milliseconds));
    say("%s: %s, data %d", label, n ? events_text(event.events) : "quiet", (int)event.data.u64);
}

PROBE(level) {
    int server = udp_at(at(0)), fd = udp(), ep = MUST(epoll_create1(0));
    watch(ep, fd, EPOLLIN | EPOLLRDHUP);
    say_epoll("before", ep, 0);
    send_to(fd, "x", at(port_of(server)));
    addr_t from = say_received("asked", server);
    send_to(server, "y", from);
    say_epoll("after", ep, 4000);
    say_epoll("still", ep, 4000);
    say_received("answer", fd);
    say_epoll("taken", ep, 0);
    AS("connect", CONNECT(fd, at(port_of(server))));
    send_to(server, "z", from);
    say_epoll("connected", ep, 4000);
}

PROBE(edge) {
    int server = udp_at(at(0)), fd = udp(), ep = MUST(epoll_create1(0));
    watch(ep, fd, EPOLLIN | EPOLLOUT | EPOLLET);
    say_epoll("before", ep, 0);
    say_epoll("no edge", ep, 0);
    MUST(CONNECT(fd, at(port_of(server))));
    send(fd, "x", 1, 0);
    addr_t from = say_received("asked", server);
    send_to(server, "y", from);
    poll_one(fd, POLLIN, 4000);
    say_epoll("answer", ep, 4000);
    say_epoll("no edge", ep, 0);
    send_to(server, "y", from);
    say_epoll("another one", ep, 4000);
}

PROBE(oneshot) {
    int server = udp_at(at(0)), fd = udp(), ep = MUST(epoll_create1(0));
    watch(ep, fd, EPOLLIN | EPOLLONESHOT);
    MUST(CONNECT(fd, at(port_of(server))));
    send(fd, "x", 1, 0);
    addr_t from = say_received("asked", server);
    send_to(server, "y", from);
    send_to(server, "y", from);
    say_epoll("first", ep, 4000);
    say_epoll("used up", ep, 0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 8};
    TRY(epoll_ctl(ep, EPOLL_CTL_MOD, fd, &event));
    say_epoll("armed", ep, 4000);
    TRY(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event));
    TRY(epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL));
    TRY(epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL));
}

PROBE(select_and_poll) {
    int server = udp_at(at(0)), fd = udp();
    fd_set in, out;
    struct timeval t = {0, 0};
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_SET(fd, &in);
    FD_SET(fd, &out);
    TRY(select(fd + 1, &in, &out, NULL, &t));
    say("in %d out %d", FD_ISSET(fd, &in) != 0, FD_ISSET(fd, &out) != 0);
    send_to(fd, "x", at(port_of(server)));
    send_to(server, "y", say_received("asked", server));
    FD_SET(fd, &in);
    t.tv_sec = 4;
    TRY(select(fd + 1, &in, NULL, NULL, &t));
    say("in %d", FD_ISSET(fd, &in) != 0);
    EVENTS("poll", fd, POLLIN | POLLOUT | POLLPRI | POLLRDHUP, 0);
}

PROBE(shut) {
    int server = udp_at(at(0)), fd = udp(), me = getpid();
    char c;
    AS("unconnected", shutdown(fd, SHUT_RD));
    AS("unconnected", shutdown(fd, SHUT_RDWR));
    EVENTS("poll", fd, POLLIN | POLLOUT | POLLRDHUP, 0);
    fd = udp();
    MUST(CONNECT(fd, at(port_of(server))));
    TRY(shutdown(fd, 7));
    TRY(shutdown(fd, SHUT_WR));
    TRY(send(fd, "x", 1, MSG_NOSIGNAL));
    EVENTS("poll", fd, POLLIN | POLLOUT | POLLRDHUP, 0);
    TRY(shutdown(fd, SHUT_RD));
    TRY(recv(fd, &c, 1, 0));
    EVENTS("poll", fd, POLLIN | POLLOUT | POLLRDHUP, 0);
    fd = udp();
    MUST(CONNECT(fd, at(port_of(server))));
    pid_t child = CHILD(until_asleep(me, me); shutdown(fd, SHUT_RDWR));
    AS("woken", recv(fd, &c, 1, 0));
    join("child", child);
}

PROBE(copies) {
    int server = udp_at(at(0)), fd = udp(), copy = dup(fd), low = dup2(fd, 50);
    AS("copy of a fresh one", send_to(copy, "x", at(port_of(server))));
    addr_t from = say_received("asked", server);
    send_to(server, "y", from);
    say_received("the first", fd);
    say("same port: %d %d", port_of(fd) == port_in(&from), port_of(low) == port_in(&from));
    AS("connect the copy", CONNECT(low, at(port_of(server))));
    say_peername("the first", fd);
    MUST(close(fd));
    AS("low", send(low, "z", 1, 0));
    say_received("asked", server);
    int third = MUST(fcntl(copy, F_DUPFD_CLOEXEC, 100));
    say_flags("third", third);
    AS("third", write(third, "w", 1));
    say_received("asked", server);
    struct iovec io = {"m", 1};
    addr_t to = at(port_of(server));
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_name = &to.ss, .msg_namelen = to.len};
    AS("message", sendmsg(low, &message, 0));
    say_received("asked", server);
}

PROBE(forked) {
    int server = udp_at(at(0)), fd = udp();
    addr_t to = at(port_of(server));
    pid_t child = CHILD(MUST(CONNECT(fd, to)); MUST(send(fd, "child", 5, 0)));
    join("child", child);
    addr_t from = say_received("asked", server);
    say_peername("connected by the child", fd);
    send_to(server, "answer", from);
    say_received("read by the parent", fd);
    child = CHILD(say_peername("in the child", fd); MUST(send(fd, "again", 5, 0)));
    join("child", child);
    say_received("asked", server);
    child = CHILD(MUST(close(fd)));
    join("closed in a child", child);
    AS("parent", send(fd, "parent", 6, 0));
    say_received("asked", server);
    child = CHILD(int mine = udp(); MUST(BIND(mine, at(0))); send_to(mine, "own", to));
    join("child", child);
    say_received("asked", server);
}

PROBE(child_serves) {
    int server = udp_at(at(0)), fd = udp(), port = port_of(server);
    pid_t child = CHILD(addr_t from = say_received("child", server); send_to(server, "child's", from));
    MUST(close(server));
    MUST(CONNECT(fd, at(port)));
    MUST(send(fd, "x", 1, 0));
    join("child", child);
    say_received("answer", fd);
    TRY(send(fd, "x", 1, 0));
    settle("gone", fd, POLLERR, POLLERR);
}

PROBE(handed_over) {
    int pairs[2], server = udp_at(at(0)), fresh = udp(), used = udp();
    addr_t to = at(port_of(server));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pairs));
    MUST(CONNECT(used, to));
    pid_t child = CHILD(close(fresh); close(used); int a = receive_fd(pairs[1]); int b = receive_fd(pairs[1]);
                        AS("fresh", send_to(a, "fresh", to)); AS("used", send(b, "used", 4, 0));
                        say_peername("used", b); send_fd(pairs[1], udp_at(at(0))));
    send_fd(pairs[0], fresh);
    send_fd(pairs[0], used);
    int third = receive_fd(pairs[0]);
    join("child", child);
    addr_t from = say_received("one", server);
    say_received("two", server);
    say("the parent knows the port: %d", port_of(fresh) == port_in(&from));
    say_sockname("made by the child", third);
    exchange("with it", fresh, third, at(port_of(third)));
}

PROBE(exec) {
    char word[32];
    int fd = MUST(socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0)), kept = udp();
    snprintf(word, sizeof word, "/proc/self/fd/%d", fd);
    pid_t child = CHILD(execlp("test", "test", "-e", word, NULL));
    join("closed", child);
    snprintf(word, sizeof word, "/proc/self/fd/%d", kept);
    child = CHILD(execlp("test", "test", "-e", word, NULL));
    join("kept", child);
}

static int shared;
static addr_t shared_to;

static void *waiter(void *tid) {
    char text[8] = "";
    *(volatile int *)tid = gettid_();
    AS("thread", recv(shared, text, 7, 0));
    say("%s", text);
    return NULL;
}

PROBE(thread_waits_while_another_sends) {
    int server = udp_at(at(0));
    volatile int tid = 0;
    pthread_t thread;
    shared = udp_at(at(0));
    pthread_create(&thread, NULL, waiter, (void *)&tid);
    while (!tid)
        usleep(1000);
    until_asleep(getpid(), tid);
    AS("sent", send_to(shared, "ask", at(port_of(server))));
    send_to(server, "answer", say_received("asked", server));
    pthread_join(thread, NULL);
}

/* Linux lets a thread wait on a socket that nobody has bound, and that another thread binds and uses. */
PROBE(thread_waits_before_the_first_use) {
    int server = udp_at(at(0));
    volatile int tid = 0;
    pthread_t thread;
    shared = udp();
    pthread_create(&thread, NULL, waiter, (void *)&tid);
    while (!tid)
        usleep(1000);
    until_asleep(getpid(), tid);
    AS("sent", send_to(shared, "ask", at(port_of(server))));
    send_to(server, "answer", say_received("asked", server));
    pthread_join(thread, NULL);
}

static void *sender(void *number) {
    int fd = udp(), wrong = 0;
    for (int i = 0; i < 50; i++) {
        char text[16], in[16] = "";
        snprintf(text, sizeof text, "%ld-%d", (long)number, i);
        MUST(send_to(fd, text, shared_to));
        if (!poll_one(fd, POLLIN, 4000))
            die("no answer");
        recv(fd, in, sizeof in - 1, MSG_DONTWAIT);
        wrong += strcmp(text, in) != 0;
    }
    return (void *)(long)wrong;
}

PROBE(eight_threads) {
    int server = udp_at(any(0));
    pthread_t threads[8];
    long wrong = 0;
    shared_to = at(port_of(server));
    pid_t child = CHILD(for (;;) {
        char text[16];
        addr_t from = {.len = sizeof from.ss};
        long n = recvfrom(server, text, sizeof text, 0, &from.sa, &from.len);
        sendto(server, text, n, 0, &from.sa, from.len);
    });
    for (long i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, sender, (void *)i);
    for (int i = 0; i < 8; i++) {
        void *result;
        pthread_join(threads[i], &result);
        wrong += (long)result;
    }
    say("wrong: %ld", wrong);
    kill(child, SIGKILL);
    join("server", child);
}

PROBE(interrupted) {
    int server = udp_at(at(0));
    char c;
    addr_t from = {.len = sizeof from.ss}, to = at(port_of(server));
    on_signal(SIGALRM, 0);
    alarm_in(50, 0);
    TRY(recvfrom(server, &c, 1, 0, &from.sa, &from.len));
    on_signal(SIGALRM, SA_RESTART);
    int me = getpid();
    alarm_in(20, 0);
    pid_t child = CHILD(until_asleep(me, me); usleep(60000); send_to(udp(), "x", to));
    AS("restarted", recvfrom(server, &c, 1, 0, &from.sa, &from.len));
    join("child", child);
    struct timeval t = {4, 0};
    MUST(setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    alarm_in(50, 0);
    AS("with a time-out", recvfrom(server, &c, 1, 0, &from.sa, &from.len));
}

PROBE(signals_while_sending) {
    int server = udp_at(at(0)), fd = udp(), sent = 0, got = 0;
    char c;
    on_signal(SIGALRM, SA_RESTART);
    alarm_in(1, 1);
    for (int i = 0; i < 2000; i++) {
        sent += send_to(fd, "x", at(port_of(server))) == 1;
        got += recv(server, &c, 1, MSG_DONTWAIT) == 1;
    }
    alarm_in(0, 0);
    say("sent %d received %d", sent, got);
}

PROBE(two_hundred) {
    int server = udp_at(at(0)), fds[200], good = 0, named = 0;
    for (int i = 0; i < 200; i++)
        fds[i] = udp();
    for (int i = 0; i < 200; i++) {
        struct iovec io = {"m", 1};
        addr_t to = at(port_of(server));
        struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_name = &to.ss, .msg_namelen = to.len};
        MUST(i % 2 ? sendmsg(fds[i], &message, 0) : send_to(fds[i], "x", to));
        poll_one(server, POLLIN, 4000);
        char text[4];
        addr_t from = {.len = sizeof from.ss};
        good += recvfrom(server, text, 4, MSG_DONTWAIT, &from.sa, &from.len) == 1;
        named += port_in(&from) == port_of(fds[i]);
    }
    say("received %d, known %d", good, named);
}

PROBE(few_descriptors) {
    struct rlimit limit = {256, 256};
    int server = udp_at(at(0)), count = 0, fd;
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    int one = TRYFD(socket(family, SOCK_DGRAM, 0));
    exchange("one", one, server, at(port_of(server)));
    AS("connect", CONNECT(one, at(port_of(server))));
    AS("send", send(one, "c", 1, 0));
    say_received("received", server);
    while ((fd = socket(family, SOCK_DGRAM, 0)) >= 0)
        count++;
    said("then", fd);
    say("all of them: %d", count > 200 && count < 256);
}

PROBE(none_left) {
    int fd;
    struct rlimit limit = {20, 20};
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    while ((fd = dup(0)) >= 0)
        ;
    TRY(socket(family, SOCK_DGRAM, 0));
    close(5);
    TRYFD(socket(family, SOCK_DGRAM, 0));
}
