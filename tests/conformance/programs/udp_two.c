/* A client of programs/udp_peer.py on another host: as the probes, but with the server's address in $PEER. */
#include "../probes/udp.h"
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#define UDP_GRO 104
#endif

static char big[66000];

static addr_t peer(int port) { return parse(getenv("PEER"), port); }

/* "peer" rather than its address */
static const char *whose(const addr_t *a) {
    addr_t there = peer(0);
    return a->len && same_ip(a, &there) ? "peer" : role(a);
}

static void say_names(const char *label, int fd) {
    addr_t mine = {.len = sizeof mine.ss}, other = {.len = sizeof other.ss};
    int no_mine = getsockname(fd, &mine.sa, &mine.len), no_other = getpeername(fd, &other.sa, &other.len);
    const char *why = name_of_errno(errno);
    say("%s: %s %s, %s %d", label, no_mine ? "?" : role(&mine), port_in(&mine) ? "set" : "0",
        no_other ? why : whose(&other), no_other || port_in(&other) > 7100 ? 0 : port_in(&other));
}

static addr_t heard_in(int fd, char text[2048]) {
    addr_t from = {.len = sizeof from.ss};
    poll_one(fd, POLLIN, 4000);
    long n = recvfrom(fd, text, 2047, MSG_DONTWAIT, &from.sa, &from.len);
    text[n < 0 ? 0 : n] = 0;
    if (n < 0)
        from = (addr_t){.ss = {.ss_family = AF_UNSPEC}, .len = 0}, strcpy(text, name_of_errno(errno));
    return from;
}

static void tell(const char *label, const char *text, addr_t from) {
    int port = from.len ? port_in(&from) : 0, known = port > 5000 && port < 7100;
    if (!from.len)
        say("%s: %s", label, text);
    else
        say("%s: '%s' from %s %s %d", label, text, whose(&from), known ? "" : "another port", known ? port : 0);
}

static addr_t answered_in(const char *label, int fd, char text[2048]) {
    addr_t from = heard_in(fd, text);
    tell(label, text, from);
    return from;
}

static addr_t answered(const char *label, int fd) {
    char text[2048];
    return answered_in(label, fd, text);
}

/* Two servers answer in an order of their own. */
static void answered_by_both(const char *label, int fd) {
    char text[2][2048];
    addr_t from[2] = {heard_in(fd, text[0]), heard_in(fd, text[1])};
    int first = from[0].len && from[1].len && port_in(&from[1]) < port_in(&from[0]);
    tell(label, text[first], from[first]);
    tell(label, text[!first], from[!first]);
}

static void ask(const char *label, int fd, const char *text, addr_t to) {
    AS(label, send_to(fd, text, to));
    answered("  answer", fd);
}

static void ask_peer(const char *label, int fd, const char *text) {
    AS(label, send(fd, text, strlen(text), 0));
    answered("  answer", fd);
}

/* What the server sees of us is what we see of ourselves. */
static void seen(const char *label, int fd, addr_t to) {
    char text[2048] = "", ip[64] = "";
    int port = 0;
    AS(label, to.len ? send_to(fd, "seen", to) : send(fd, "seen", 4, 0));
    poll_one(fd, POLLIN, 4000);
    long n = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);
    if (n < 0) {
        say("  %s", name_of_errno(errno));
        return;
    }
    sscanf(text, "%63s %d", ip, &port);
    addr_t a = parse(ip, 0);
    say("  as %s, the port that it has: %d", role(&a), port == port_of(fd));
}

static addr_t nothing(void) { return (addr_t){.len = 0}; }

PROBE(unconnected) {
    int fd = udp();
    ask("7000", fd, "echo one", peer(7000));
    say_names("names", fd);
    ask("7001", fd, "echo two", peer(7001));
    ask("7000 again", fd, "echo three", peer(7000));
    seen("seen", fd, peer(7000));
    seen("seen by the other", fd, peer(7001));
    ask("twice", fd, "twice x", peer(7000));
    answered("  second", fd);
    ask("empty", fd, "", peer(7000));
    say_flags("flags", fd);
}

PROBE(connected) {
    int fd = udp();
    TRY(CONNECT(fd, peer(7000)));
    say_names("names", fd);
    ask_peer("send", fd, "echo one");
    AS("write", write(fd, "echo two", 8));
    answered("  answer", fd);
    seen("seen", fd, nothing());
    ask("to another one", fd, "other x", peer(7001));
    ask_peer("still", fd, "echo three");
    AS("connect to another one", CONNECT(fd, peer(7001)));
    say_names("names", fd);
    ask_peer("send", fd, "echo four");
    ask("its own peer, named", fd, "echo five", peer(7001));
}

PROBE(other_port) {
    int fd = udp();
    char text[2048];
    AS("asked", send_to(fd, "other one", peer(7000)));
    addr_t from = answered_in("answer", fd, text);
    say("another port: %d", port_in(&from) != 7000);
    AS("asked there", send_to(fd, "echo two", from));
    addr_t again = answered_in("answer", fd, text);
    say("the same port: %d", port_in(&from) == port_in(&again));
    ask("also", fd, "also x", peer(7001));
    answered("  second", fd);
}

PROBE(bound) {
    int fd = udp_at(at(0)), port = port_of(fd);
    seen("to self", fd, peer(7000));
    say("same port: %d", port_of(fd) == port);
    say_names("names", fd);
    TRY(CONNECT(fd, peer(7001)));
    say_names("names", fd);
    ask_peer("connected", fd, "echo x");
    fd = udp_at(any(0));
    port = port_of(fd);
    seen("to any", fd, peer(7000));
    say("same port: %d", port_of(fd) == port);
    say_names("names", fd);
    fd = udp_at(loopback(0));
    AS("from loopback", send_to(fd, "echo x", peer(7000)));
    say_names("names", fd);
    AS("connect from loopback", CONNECT(fd, peer(7000)));
}

PROBE(explicit_port) {
    int fd = udp_at(at(5060));
    ask("5060 to 5060", fd, "seen", peer(5060));
    ask("call", fd, "call 5060", peer(7000));
    answered("  second", fd);
    TRY(CONNECT(fd, peer(5060)));
    ask_peer("connected", fd, "echo x");
    say_names("names", fd);
    close(fd);
    fd = udp();
    AS("bind again", BIND(fd, any(5060)));
    ask("any 5060", fd, "seen", peer(5060));
    say_names("names", fd);
    ask("other", fd, "other x", peer(7001));
    AS("a second one", BIND(udp(), at(5060)));
    close(fd);
    fd = udp();
    AS("once more", BIND(fd, at(5060)));
    TRY(CONNECT(fd, peer(5060)));
    ask_peer("connected", fd, "echo x");
    ask_peer("other port does not reach it", fd, "also x");
}

PROBE(both_serve) {
    int server = udp_at(any(7000)), fd = udp();
    ask("asked", fd, "call 7000", peer(7001));
    answered("called", server);
    ask("from the server's socket", server, "echo x", peer(7000));
    exchange("own client", udp(), server, at(7000));
    exchange("own loopback client", udp(), server, loopback(7000));
    ask("again", fd, "call 7000", peer(7000));
    answered("called", server);
    say_names("names", server);
}

PROBE(not_there) {
    int fd = udp();
    TRY(CONNECT(fd, peer(7002)));
    AS("the server's loopback", send(fd, "echo x", 6, 0));
    settle("poll", fd, POLLERR, POLLERR);
    TRY(recv(fd, big, 1, MSG_DONTWAIT));
    fd = udp();
    TRY(CONNECT(fd, loopback(7000)));
    AS("our loopback", send(fd, "echo x", 6, 0));
    settle("poll", fd, POLLERR, POLLERR);
    TRY(send(fd, "echo x", 6, 0));
    fd = udp();
    TRY(CONNECT(fd, at(7000)));
    AS("our own address", send(fd, "echo x", 6, 0));
    settle("poll", fd, POLLERR, POLLERR);
    fd = udp();
    TRY(CONNECT(fd, any(7000)));
    AS("any", send(fd, "echo x", 6, 0));
    settle("poll", fd, POLLERR, POLLERR);
}

PROBE(refused) {
    int fd = udp();
    TRY(CONNECT(fd, peer(7009)));
    TRY(send(fd, "x", 1, 0));
    settle("poll", fd, POLLERR, POLLIN | POLLERR);
    TRY(send(fd, "x", 1, 0));
    TRY(send(fd, "x", 1, 0));
    settle("poll", fd, POLLERR, POLLIN | POLLERR);
    TRY(recv(fd, big, 1, 0));
    send(fd, "x", 1, 0);
    settle("poll", fd, POLLERR, POLLERR);
    say("SO_ERROR %s", name_of_errno(get(fd, SOL_SOCKET, SO_ERROR)));
    TRY(CONNECT(fd, peer(7000)));
    ask_peer("goes on", fd, "echo x");
    fd = udp();
    AS("unconnected", send_to(fd, "x", peer(7009)));
    ask("goes on", fd, "echo x", peer(7000));
}

PROBE(refused_in_the_error_queue) {
    int fd = udp();
    char text[16] = "", control[256];
    addr_t name;
    struct iovec io = {text, sizeof text};
    struct msghdr message = {.msg_name = &name.ss,
                             .msg_namelen = sizeof name.ss,
                             .msg_iov = &io,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    TRY(set(fd, IPPROTO_IP, IP_RECVERR, 1));
    if (family == AF_INET6)
        TRY(set(fd, IPPROTO_IPV6, IPV6_RECVERR, 1));
    AS("sent", send_to(fd, "lost", peer(7009)));
    settle("poll", fd, POLLERR, POLLERR);
    TRY(recvmsg(fd, &message, MSG_ERRQUEUE));
    name.len = message.msg_namelen;
    say("%s for %s, port %d, flags %x, control %d", text, whose(&name), port_in(&name), message.msg_flags,
        message.msg_controllen > 0);
    AS("then", send_to(fd, "lost", peer(7009)));
}

PROBE(server_restarts) {
    int fd = udp(), loose = udp(), manager = udp();
    ask("open", manager, "open 7005", peer(7001));
    TRY(CONNECT(fd, peer(7005)));
    ask_peer("connected", fd, "echo one");
    ask("loose", loose, "echo one", peer(7005));
    ask("close", manager, "close 7005", peer(7001));
    TRY(send(fd, "x", 1, 0));
    settle("poll", fd, POLLERR, POLLERR);
    TRY(send(fd, "x", 1, 0));
    TRY(send(fd, "x", 1, 0));
    settle("poll", fd, POLLERR, POLLERR);
    say("SO_ERROR %s", name_of_errno(get(fd, SOL_SOCKET, SO_ERROR)));
    ask("open", manager, "open 7005", peer(7001));
    ask_peer("connected", fd, "echo two");
    ask("loose", loose, "echo two", peer(7005));
    ask("close", manager, "close 7005", peer(7001));
}

/* Connected before anybody listens. */
PROBE(server_comes_late) {
    int fd = udp(), loose = udp(), manager = udp();
    TRY(CONNECT(fd, peer(7006)));
    say_names("names", fd);
    AS("loose", send_to(loose, "echo early", peer(7006)));
    ask("open", manager, "open 7006", peer(7001));
    ask_peer("connected", fd, "echo one");
    ask("loose", loose, "echo one", peer(7006));
    ask("close", manager, "close 7006", peer(7001));
}

PROBE(adopted) {
    int fd = udp(), other = udp();
    ask("one", fd, "1", peer(7003));
    ask("other", other, "2", peer(7003));
    ask("one", fd, "3", peer(7003));
    ask("other", other, "4", peer(7003));
    AS("connect", CONNECT(fd, peer(7003)));
    ask_peer("one", fd, "5");
    ask("third", udp(), "6", peer(7003));
}

PROBE(here_and_there) {
    int own = udp_at(any(0)), fd = udp(), port = port_of(own);
    exchange("own first", fd, own, at(port));
    ask("peer", fd, "echo x", peer(7000));
    exchange("own again", fd, own, at(port));
    exchange("own loopback", fd, own, loopback(port));
    ask("peer again", fd, "echo y", peer(7001));
    seen("seen", fd, peer(7000));
    fd = udp();
    ask("peer first", fd, "echo x", peer(7000));
    exchange("then own", fd, own, at(port));
    ask("then peer", fd, "echo y", peer(7000));
}

PROBE(reconnected) {
    int own = udp_at(any(0)), fd = udp(), port;
    addr_t none;
    memset(&none, 0, sizeof none);
    none.len = 16;
    TRY(CONNECT(fd, at(port_of(own))));
    say_names("own", fd);
    port = port_of(fd);
    TRY(CONNECT(fd, peer(7000)));
    say_names("peer", fd);
    say("same port %d", port_of(fd) == port);
    ask_peer("peer", fd, "echo x");
    TRY(CONNECT(fd, at(port_of(own))));
    say_names("own", fd);
    say("same port %d", port_of(fd) == port);
    TRY(send(fd, "x", 1, 0));
    say_received("own", own);
    TRY(CONNECT(fd, peer(7001)));
    ask_peer("peer", fd, "echo y");
    AS("disconnect", CONNECT(fd, none));
    say_names("disconnected", fd);
    TRY(send(fd, "x", 1, 0));
    ask("named", fd, "echo z", peer(7000));
    AS("connect", CONNECT(fd, peer(7000)));
    say_names("connected", fd);
    seen("seen", fd, nothing());
    AS("disconnect", CONNECT(fd, none));
    exchange("own", fd, own, at(port_of(own)));
}

PROBE(queued_before_it_connects) {
    int fd = udp_at(any(0)), other = udp();
    send_to(other, "early", at(port_of(fd)));
    poll_one(fd, POLLIN, 4000);
    TRY(CONNECT(fd, peer(7000)));
    answered("early", fd);
    ask_peer("then", fd, "echo x");
    fd = udp_at(at(0));
    send_to(other, "early", at(port_of(fd)));
    poll_one(fd, POLLIN, 4000);
    AS("send", send_to(fd, "echo y", peer(7000)));
    answered("early", fd);
    answered("then", fd);
}

PROBE(sizes) {
    int fd = udp();
    int sizes[] = {1000, 1472, 9000, 65507};
    long n;
    char in[66000];
    MUST(set(fd, SOL_SOCKET, SO_RCVBUF, 200000));
    addr_t to = peer(7000);
    for (int i = 0; i < (int)sizeof big; i++)
        big[i] = (char)('a' + i % 26);
    memcpy(big, "sum ", 4);
    for (int i = 0; i < 4; i++) {
        char text[32];
        unsigned sum = 0;
        for (int k = 0; k < sizes[i]; k++)
            sum += (unsigned char)big[k];
        n = sendto(fd, big, sizes[i], 0, &to.sa, to.len);
        poll_one(fd, POLLIN, 4000);
        memset(in, 0, 100);
        recv(fd, in, sizeof in, MSG_DONTWAIT);
        snprintf(text, sizeof text, "%d %d", sizes[i], sum & 0xffff);
        say("%d: sent %d, arrived %d", sizes[i], n == sizes[i], strcmp(in, text) == 0);
        snprintf(text, sizeof text, "big %d", sizes[i]);
        send_to(fd, text, to);
        poll_one(fd, POLLIN, 4000);
        n = recv(fd, in, sizeof in, MSG_DONTWAIT);
        int good = n == sizes[i];
        for (int k = 0; k < n; k++)
            good &= (unsigned char)in[k] == (unsigned char)(k * 7);
        say("  back %d", good);
    }
    n = sendto(fd, big, 65508, 0, &to.sa, to.len);
    say("65508: %s", n == 65508 ? "sent" : name_of_errno(errno));
    n = sendto(fd, big, 65536, 0, &to.sa, to.len);
    say("65536: %s", n == 65536 ? "sent" : name_of_errno(errno));
    int fresh = udp();
    n = sendto(fresh, big, 65536, 0, &to.sa, to.len);
    say("65536, fresh: %s", n == 65536 ? "sent" : name_of_errno(errno));
    ask("it still works", fresh, "echo x", to);
    send_to(fd, "big 1000", to);
    poll_one(fd, POLLIN, 4000);
    AS("truncated", recv(fd, in, 10, MSG_TRUNC));
}

static long message_to(int fd, const char *text, addr_t to) {
    struct iovec io[2] = {{(char *)text, 3}, {(char *)text + 3, strlen(text) - 3}};
    struct msghdr message = {.msg_name = &to.ss, .msg_namelen = to.len, .msg_iov = io, .msg_iovlen = 2};
    return sendmsg(fd, &message, 0);
}

PROBE(messages) {
    int fd = udp();
    AS("first", message_to(fd, "echo one", peer(7000)));
    answered("  answer", fd);
    AS("second", message_to(fd, "echo two", peer(7001)));
    answered("  answer", fd);
    say_names("names", fd);
    fd = udp();
    MUST(CONNECT(fd, peer(7000)));
    AS("named though connected", message_to(fd, "echo three", peer(7001)));
    AS("unnamed", message_to(fd, "echo four", nothing()));
    answered("  answer", fd);
}

PROBE(many_messages) {
    int fd = udp(), own = udp_at(at(0));
    addr_t to[4] = {peer(7000), peer(7001), at(port_of(own)), peer(7000)};
    struct iovec io[4] = {{"echo 1", 6}, {"echo 2", 6}, {"own", 3}, {"echo 4", 6}};
    struct mmsghdr messages[4] = {0};
    for (int i = 0; i < 4; i++)
        messages[i].msg_hdr =
            (struct msghdr){.msg_name = &to[i].ss, .msg_namelen = to[i].len, .msg_iov = &io[i], .msg_iovlen = 1};
    AS("two of one host", sendmmsg(fd, messages, 2, 0));
    say("lengths %d %d", messages[0].msg_len, messages[1].msg_len);
    answered_by_both("answer", fd);
    int sent = 0;
    while (sent < 4) /* sendmmsg(2): it may send fewer than asked for */
        sent += MUST(sendmmsg(fd, messages + sent, 4 - sent, 0));
    say("sent %d", sent);
    char text[2048];
    unsigned got = 0;
    for (int i = 0; i < 3; i++) {
        poll_one(fd, POLLIN, 4000);
        if (recv(fd, text, sizeof text, MSG_DONTWAIT) > 0)
            got |= 1U << (text[0] - '0');
    }
    say("answers %x", got);
    say_received("own", own);
    fd = udp();
    MUST(CONNECT(fd, peer(7001)));
    for (int i = 0; i < 4; i++)
        messages[i].msg_hdr.msg_name = NULL, messages[i].msg_hdr.msg_namelen = 0;
    messages[2].msg_hdr.msg_iov = &io[1];
    AS("connected", sendmmsg(fd, messages, 4, 0));
    for (int i = 0; i < 4; i++)
        answered("answer", fd);
    for (int i = 0; i < 4; i++)
        io[i] = (struct iovec){text, 100}, messages[i].msg_hdr = (struct msghdr){.msg_iov = &io[i], .msg_iovlen = 1};
    AS("asked", send(fd, "twice x", 7, 0));
    poll_one(fd, POLLIN, 4000);
    AS("received", recvmmsg(fd, messages, 2, 0, NULL));
}

static void watch(int ep, int fd, unsigned events) {
    struct epoll_event event = {.events = events, .data.u64 = 7};
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event));
}

static void say_epoll(const char *label, int ep, int milliseconds) {
    struct epoll_event event = {0};
    int n = MUST(epoll_wait(ep, &event, 1, milliseconds));
    say("%s: %s, data %d", label, n ? events_text(event.events) : "quiet", (int)event.data.u64);
}

PROBE(level_before_use) {
    for (int connected = 0; connected < 2; connected++) {
        int ep = MUST(epoll_create1(0)), fd = udp();
        watch(ep, fd, EPOLLIN);
        say_epoll("before", ep, 0);
        if (connected)
            MUST(CONNECT(fd, peer(7000)));
        MUST(connected ? send(fd, "echo x", 6, 0) : send_to(fd, "echo x", peer(7000)));
        say_epoll("answer", ep, 4000);
        say_epoll("still", ep, 4000);
        answered("taken", fd);
        say_epoll("taken", ep, 0);
        ask("another one", fd, "echo y", peer(7000));
        struct epoll_event event = {.events = EPOLLOUT, .data.u64 = 8};
        TRY(epoll_ctl(ep, EPOLL_CTL_MOD, fd, &event));
        say_epoll("modified", ep, 4000);
        TRY(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event));
        close(fd);
        say_epoll("closed", ep, 0);
    }
}

PROBE(edge_before_use) {
    for (int connected = 0; connected < 2; connected++) {
        int ep = MUST(epoll_create1(0)), fd = MUST(socket(family, SOCK_DGRAM | SOCK_NONBLOCK, 0));
        watch(ep, fd, EPOLLIN | EPOLLET);
        if (connected)
            MUST(CONNECT(fd, peer(7000)));
        MUST(connected ? send(fd, "echo x", 6, 0) : send_to(fd, "echo x", peer(7000)));
        say_epoll("answer", ep, 4000);
        say_epoll("no edge", ep, 0);
        answered("taken", fd);
        MUST(send_to(fd, "echo y", peer(7000)));
        say_epoll("another one", ep, 4000);
        say_flags("flags", fd);
    }
}

PROBE(oneshot_before_use) {
    int ep = MUST(epoll_create1(0)), fd = udp();
    watch(ep, fd, EPOLLIN | EPOLLONESHOT);
    MUST(send_to(fd, "twice x", peer(7000)));
    say_epoll("answer", ep, 4000);
    say_epoll("used up", ep, 0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 8};
    TRY(epoll_ctl(ep, EPOLL_CTL_MOD, fd, &event));
    say_epoll("armed", ep, 4000);
    TRY(epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL));
    TRY(epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL));
}

PROBE(watched_after_use) {
    int ep = MUST(epoll_create1(0)), fd = udp();
    MUST(send_to(fd, "echo x", peer(7000)));
    watch(ep, fd, EPOLLIN);
    say_epoll("answer", ep, 4000);
    answered("taken", fd);
    MUST(CONNECT(fd, peer(7001)));
    MUST(send(fd, "echo y", 6, 0));
    say_epoll("connected", ep, 4000);
}

/* Waits in epoll_wait(2) while another thread uses the socket for the first time. */
static int shared, shared_ep;
static volatile int waiting;

static void *epoll_waiter(void *unused) {
    (void)unused;
    waiting = gettid_();
    say_epoll("woken", shared_ep, 4000);
    return NULL;
}

PROBE(waiting_in_epoll_before_use) {
    pthread_t thread;
    shared_ep = MUST(epoll_create1(0));
    shared = udp();
    watch(shared_ep, shared, EPOLLIN);
    pthread_create(&thread, NULL, epoll_waiter, NULL);
    while (!waiting)
        usleep(1000);
    until_asleep(getpid(), waiting);
    MUST(send_to(shared, "echo x", peer(7000)));
    pthread_join(thread, NULL);
    answered("answer", shared);
}

static void *receiver(void *unused) {
    char text[64] = "";
    (void)unused;
    waiting = gettid_();
    AS("thread", recv(shared, text, sizeof text - 1, 0));
    say("%s", text);
    return NULL;
}

static void thread_waits(int fd, bool connects) {
    pthread_t thread;
    struct timeval t = {4, 0};
    shared = fd;
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    pthread_create(&thread, NULL, receiver, NULL);
    while (!waiting)
        usleep(1000);
    until_asleep(getpid(), waiting);
    if (connects)
        MUST(CONNECT(shared, peer(7000)));
    MUST(send_to(shared, "echo to the thread", peer(7000)));
    pthread_join(thread, NULL);
}

PROBE(thread_waits_on_a_fresh_one) { thread_waits(udp(), false); }

PROBE(thread_waits_on_a_fresh_one_that_connects) { thread_waits(udp(), true); }

PROBE(thread_waits_on_a_bound_one) { thread_waits(udp_at(any(0)), false); }

PROBE(thread_waits_on_one_with_a_port) { thread_waits(udp_at(any(5060)), false); }

PROBE(thread_waits_on_a_used_one) {
    int fd = udp();
    ask("used", fd, "echo x", peer(7001));
    thread_waits(fd, false);
}

static void *poller(void *unused) {
    (void)unused;
    waiting = gettid_();
    EVENTS("poll", shared, POLLIN, 4000);
    return NULL;
}

PROBE(thread_polls_a_fresh_one) {
    pthread_t thread;
    shared = udp();
    pthread_create(&thread, NULL, poller, NULL);
    while (!waiting)
        usleep(1000);
    until_asleep(getpid(), waiting);
    MUST(send_to(shared, "echo x", peer(7000)));
    pthread_join(thread, NULL);
}

static void *asker(void *number) {
    long wrong = 0;
    for (int i = 0; i < 25; i++) {
        char text[32], in[32] = "";
        int fd = udp();
        snprintf(text, sizeof text, "echo %ld-%d", (long)number, i);
        if (i & 1)
            MUST(CONNECT(fd, peer(7000)));
        MUST(i & 1 ? send(fd, text, strlen(text), 0) : send_to(fd, text, peer(i & 2 ? 7000 : 7001)));
        poll_one(fd, POLLIN, 4000);
        wrong += recv(fd, in, sizeof in - 1, MSG_DONTWAIT) < 0 || strcmp(in, text + 5) != 0;
        close(fd);
    }
    return (void *)wrong;
}

PROBE(eight_threads) {
    pthread_t threads[8];
    long wrong = 0;
    for (long i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, asker, (void *)i);
    for (int i = 0; i < 8; i++) {
        void *result;
        pthread_join(threads[i], &result);
        wrong += (long)result;
    }
    say("wrong: %ld", wrong);
}

/* All of them use one fresh socket at the same time: it has one port. */
static void *first_user(void *unused) {
    (void)unused;
    MUST(send_to(shared, "seen", peer(7000)));
    return NULL;
}

PROBE(used_first_by_eight_threads) {
    pthread_t threads[8];
    char first[64] = "", text[64];
    int same = 0;
    shared = udp();
    for (int i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, first_user, NULL);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 8; i++) {
        poll_one(shared, POLLIN, 4000);
        long n = recv(shared, text, sizeof text - 1, MSG_DONTWAIT);
        text[n < 0 ? 0 : n] = 0;
        if (!*first)
            strcpy(first, text);
        same += n > 0 && strcmp(first, text) == 0;
    }
    say("answers to one port: %d", same);
}

PROBE(copies_before_use) {
    int fd = udp(), copy = dup(fd), low = dup2(fd, 50);
    ask("the first", fd, "echo one", peer(7000));
    say("same port: %d %d", port_of(copy) == port_of(fd), port_of(low) == port_of(fd));
    ask("copy", copy, "echo two", peer(7001));
    ask("low", low, "echo three", peer(7000));
    AS("the answer for one", send_to(low, "echo four", peer(7000)));
    answered("  is the other's, too", fd);
    AS("connect", CONNECT(copy, peer(7000)));
    say_names("the first", fd);
    say_names("low", low);
    close(fd);
    ask_peer("low", low, "echo five");
}

PROBE(copied_down_before_use) {
    int fd = udp(), low = dup2(fd, 50);
    close(fd);
    ask("sendto", low, "echo one", peer(7000));
    AS("sendmsg", message_to(low, "echo two", peer(7000)));
    answered("  answer", low);
    AS("connect", CONNECT(low, peer(7001)));
    ask_peer("send", low, "echo three");
}

PROBE(message_of_one_that_was_copied_down) {
    int fd = udp(), low = dup2(fd, 50);
    close(fd);
    AS("sendmsg", message_to(low, "echo one", peer(7000)));
    answered("  answer", low);
}

PROBE(forked_before_use) {
    int fd = udp();
    join("child", CHILD(ask("child", fd, "echo one", peer(7000))));
    say_names("in the parent", fd);
    ask("parent", fd, "echo two", peer(7001));
    seen("parent", fd, peer(7000));
    AS("sent by the parent", send_to(fd, "echo three", peer(7000)));
    join("child", CHILD(answered("received by the child", fd)));
    fd = udp();
    join("child", CHILD(MUST(CONNECT(fd, peer(7000)))));
    say_names("connected by a child", fd);
    ask_peer("parent", fd, "echo four");
}

PROBE(forked_after_use) {
    int fd = udp();
    MUST(CONNECT(fd, peer(7000)));
    join("child", CHILD(ask_peer("child", fd, "echo one"); seen("child", fd, nothing())));
    ask_peer("parent", fd, "echo two");
    join("child", CHILD(MUST(CONNECT(fd, peer(7001)))));
    say_names("connected elsewhere by a child", fd);
    ask_peer("parent", fd, "echo three");
}

PROBE(handed_over) {
    int pairs[2], fresh = udp(), used = udp();
    MUST(CONNECT(used, peer(7000)));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pairs));
    pid_t child = CHILD(int a = receive_fd(pairs[1]); int b = receive_fd(pairs[1]);
                        ask("fresh", a, "echo one", peer(7000)); ask_peer("used", b, "echo two"));
    send_fd(pairs[0], fresh);
    send_fd(pairs[0], used);
    join("child", child);
    say_names("fresh", fresh);
    ask("fresh", fresh, "echo three", peer(7001));
    ask_peer("used", used, "echo four");
}

/* Only the receiver has it: it was in flight when its number was closed. */
PROBE(handed_over_and_closed) {
    int pairs[2], fresh = udp();
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pairs));
    send_fd(pairs[0], fresh);
    close(fresh);
    fresh = receive_fd(pairs[1]);
    ask("fresh", fresh, "echo one", peer(7000));
    MUST(CONNECT(fresh, peer(7001)));
    send_fd(pairs[0], fresh);
    close(fresh);
    fresh = receive_fd(pairs[1]);
    say_names("names", fresh);
    ask_peer("connected", fresh, "echo two");
}

PROBE(flags_and_close_on_exec) {
    int fd = MUST(socket(family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    MUST(send_to(fd, "echo x", peer(7000)));
    say_flags("unconnected", fd);
    answered("answer", fd);
    fd = MUST(socket(family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    MUST(CONNECT(fd, peer(7000)));
    say_flags("connected", fd);
    TRY(recv(fd, big, 1, 0));
    fd = udp();
    MUST(fcntl(fd, F_SETFD, FD_CLOEXEC));
    MUST(CONNECT(fd, peer(7000)));
    say_flags("set later", fd);
    int copy = MUST(dup(fd = udp()));
    MUST(fcntl(copy, F_SETFD, FD_CLOEXEC));
    MUST(CONNECT(fd, peer(7000)));
    say_flags("the first", fd);
    say_flags("its copy", copy);
}

PROBE(options_go_with_it) {
    static const struct {
        const char *name;
        int level, option, value;
    } options[] = {
        {"SO_RCVBUF", SOL_SOCKET, SO_RCVBUF, 30000},
        {"SO_SNDBUF", SOL_SOCKET, SO_SNDBUF, 40000},
        {"SO_BROADCAST", SOL_SOCKET, SO_BROADCAST, 1},
        {"SO_RCVLOWAT", SOL_SOCKET, SO_RCVLOWAT, 1},
        {"SO_TIMESTAMPNS", SOL_SOCKET, SO_TIMESTAMPNS, 1},
        {"SO_REUSEADDR", SOL_SOCKET, SO_REUSEADDR, 1},
        {"SO_KEEPALIVE", SOL_SOCKET, SO_KEEPALIVE, 1},
        {"SO_RXQ_OVFL", SOL_SOCKET, SO_RXQ_OVFL, 1},
        {"SO_BUSY_POLL", SOL_SOCKET, SO_BUSY_POLL, 0},
        {"SO_PEEK_OFF", SOL_SOCKET, SO_PEEK_OFF, 0},
        {"IP_TTL", IPPROTO_IP, IP_TTL, 33},
        {"IP_TOS", IPPROTO_IP, IP_TOS, 0x20},
        {"IP_MTU_DISCOVER", IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO},
        {"IP_PKTINFO", IPPROTO_IP, IP_PKTINFO, 1},
        {"IP_RECVTOS", IPPROTO_IP, IP_RECVTOS, 1},
        {"IP_RECVTTL", IPPROTO_IP, IP_RECVTTL, 1},
        {"IP_RECVERR", IPPROTO_IP, IP_RECVERR, 1},
        {"IP_RECVORIGDSTADDR", IPPROTO_IP, IP_RECVORIGDSTADDR, 1},
        {"IP_MULTICAST_TTL", IPPROTO_IP, IP_MULTICAST_TTL, 7},
        {"IP_MULTICAST_LOOP", IPPROTO_IP, IP_MULTICAST_LOOP, 0},
        {"UDP_SEGMENT", IPPROTO_UDP, UDP_SEGMENT, 1000},
        {"UDP_GRO", IPPROTO_UDP, UDP_GRO, 1},
        {"IPV6_UNICAST_HOPS", IPPROTO_IPV6, IPV6_UNICAST_HOPS, 44},
        {"IPV6_TCLASS", IPPROTO_IPV6, IPV6_TCLASS, 0x40},
        {"IPV6_RECVPKTINFO", IPPROTO_IPV6, IPV6_RECVPKTINFO, 1},
        {"IPV6_RECVTCLASS", IPPROTO_IPV6, IPV6_RECVTCLASS, 1},
        {"IPV6_RECVHOPLIMIT", IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1},
        {"IPV6_RECVERR", IPPROTO_IPV6, IPV6_RECVERR, 1},
        {"IPV6_DONTFRAG", IPPROTO_IPV6, IPV6_DONTFRAG, 1},
        {"IPV6_MTU_DISCOVER", IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO},
        {"IPV6_MULTICAST_HOPS", IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 5},
    };
    size_t count = sizeof options / sizeof *options;
    int one = udp(), two = udp(), before[64];
    struct timeval t = {3, 0};
    struct linger linger = {1, 5};
    socklen_t length = sizeof t;
    MUST(setsockopt(one, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    MUST(setsockopt(one, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    for (size_t i = 0; i < count; i++) {
        if (family == AF_INET && options[i].level == IPPROTO_IPV6)
            continue;
        if (set(one, options[i].level, options[i].option, options[i].value) < 0)
            say("%s: %s", options[i].name, name_of_errno(errno));
        set(two, options[i].level, options[i].option, options[i].value);
        before[i] = get(one, options[i].level, options[i].option);
    }
    MUST(CONNECT(one, peer(7000)));
    MUST(send_to(two, "echo x", peer(7000)));
    for (size_t i = 0; i < count; i++) {
        if (family == AF_INET && options[i].level == IPPROTO_IPV6)
            continue;
        int a = get(one, options[i].level, options[i].option), b = get(two, options[i].level, options[i].option);
        say("%s: %d, connected %d, unconnected %d", options[i].name, before[i], a, b);
    }
    MUST(getsockopt(one, SOL_SOCKET, SO_RCVTIMEO, &t, &length));
    say("SO_RCVTIMEO %d", (int)t.tv_sec);
    length = sizeof linger;
    MUST(getsockopt(one, SOL_SOCKET, SO_LINGER, &linger, &length));
    say("SO_LINGER %d %d", linger.l_onoff, linger.l_linger);
}

PROBE(control_messages) {
    int fd = udp();
    char text[16], control[512];
    struct iovec io = {text, sizeof text};
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    addr_t there = peer(0);
    bool four = family == AF_INET || IN6_IS_ADDR_V4MAPPED(&there.in6.sin6_addr);
    TRY(set(fd, SOL_SOCKET, SO_TIMESTAMP, 1));
    if (four) {
        TRY(set(fd, IPPROTO_IP, IP_PKTINFO, 1));
        TRY(set(fd, IPPROTO_IP, IP_RECVTTL, 1));
        TRY(set(fd, IPPROTO_IP, IP_RECVTOS, 1));
    } else {
        TRY(set(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1));
        TRY(set(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1));
        TRY(set(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1));
    }
    MUST(send_to(fd, "echo x", peer(7000)));
    poll_one(fd, POLLIN, 4000);
    TRY(recvmsg(fd, &message, MSG_DONTWAIT));
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
        addr_t a = family == AF_INET6 && !four ? any(0) : any4(0);
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            a.in.sin_addr = ((struct in_pktinfo *)CMSG_DATA(c))->ipi_addr;
            say("IP_PKTINFO %s", role(&a));
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            a.in6.sin6_addr = ((struct in6_pktinfo *)CMSG_DATA(c))->ipi6_addr;
            say("IPV6_PKTINFO %s", role(&a));
        } else if (c->cmsg_level == SOL_SOCKET) {
            say("time of now: %d", labs(((struct timeval *)CMSG_DATA(c))->tv_sec - time(NULL)) < 20);
        } else {
            say("level %d type %d: %d", c->cmsg_level, c->cmsg_type, *(unsigned char *)CMSG_DATA(c));
        }
    }
}

PROBE(segments) {
    int fd = udp();
    addr_t to = peer(7000);
    char text[3000];
    for (int i = 0; i < 3; i++)
        sprintf(text + 1000 * i, "echo %*d", 995, i + 1);
    TRY(set(fd, IPPROTO_UDP, UDP_SEGMENT, 1000));
    AS("sent", sendto(fd, text, 3000, 0, &to.sa, to.len));
    for (int i = 0; i < 3; i++) {
        poll_one(fd, POLLIN, 4000);
        memset(text, 0, sizeof text);
        AS("answer", recv(fd, text, sizeof text, MSG_DONTWAIT));
        say("%d", atoi(text));
    }
}

PROBE(shut) {
    int fd = udp();
    MUST(CONNECT(fd, peer(7000)));
    ask_peer("before", fd, "echo x");
    TRY(shutdown(fd, SHUT_WR));
    TRY(send(fd, "x", 1, MSG_NOSIGNAL));
    TRY(shutdown(fd, SHUT_RDWR));
    TRY(recv(fd, big, 1, 0));
    EVENTS("poll", fd, POLLIN | POLLOUT | POLLRDHUP, 0);
    fd = udp();
    AS("used", send_to(fd, "echo x", peer(7000)));
    answered("answer", fd);
    AS("unconnected", shutdown(fd, SHUT_RDWR));
}

PROBE(interrupted) {
    int fd = udp();
    ask("used", fd, "echo x", peer(7000));
    on_signal(SIGALRM, 0);
    alarm_in(50, 0);
    TRY(recv(fd, big, 1, 0));
    on_signal(SIGALRM, SA_RESTART);
    alarm_in(1, 1);
    int wrong = 0;
    for (int i = 0; i < 300; i++) {
        char text[32], in[32] = "";
        int fresh = udp();
        snprintf(text, sizeof text, "echo %d", i);
        if (i & 1)
            MUST(CONNECT(fresh, peer(7000)));
        MUST(i & 1 ? send(fresh, text, strlen(text), 0) : send_to(fresh, text, peer(7001)));
        MUST(recv(fresh, in, sizeof in - 1, 0));
        wrong += strcmp(in, text + 5) != 0;
        close(fresh);
    }
    alarm_in(0, 0);
    say("wrong %d", wrong);
}

PROBE(time_out) {
    int fd = udp();
    struct timeval t = {0, 50000};
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    MUST(CONNECT(fd, peer(7000)));
    double start = now();
    TRY(recv(fd, big, 1, 0));
    double took = now() - start;
    say("waited %d", took >= 0.045 && took < 2);
    ask_peer("then", fd, "echo x");
}

PROBE(two_hundred) {
    int fds[200], own[200], wrong = 0, ports = 0;
    for (int i = 0; i < 200; i++) {
        char text[32];
        fds[i] = udp();
        snprintf(text, sizeof text, "echo %d", i);
        if (i % 3 == 0)
            MUST(CONNECT(fds[i], peer(7000)));
        MUST(i % 3 == 0   ? send(fds[i], text, strlen(text), 0)
             : i % 3 == 1 ? send_to(fds[i], text, peer(7000))
                          : message_to(fds[i], text, peer(7000)));
    }
    for (int i = 0; i < 200; i++) {
        char in[32] = "";
        poll_one(fds[i], POLLIN, 1000);
        wrong += recv(fds[i], in, sizeof in - 1, MSG_DONTWAIT) < 0 || atoi(in) != i;
        own[i] = port_of(fds[i]);
        for (int k = 0; k < i; k++)
            ports += own[i] == own[k];
    }
    say("wrong %d, ports twice %d", wrong, ports);
}

PROBE(few_descriptors) {
    struct rlimit limit = {256, 256};
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    int fd = udp();
    ask("unconnected", fd, "echo one", peer(7000));
    AS("message, after use", message_to(fd, "echo two", peer(7000)));
    answered("  answer", fd);
    AS("connect", CONNECT(fd, peer(7001)));
    ask_peer("connected", fd, "echo three");
    fd = udp();
    MUST(CONNECT(fd, peer(7000)));
    AS("message, connected", message_to(fd, "echo four", nothing()));
    answered("  answer", fd);
    fd = udp_at(any(5060));
    ask("bound", fd, "seen", peer(5060));
    say_names("names", fd);
}

PROBE(few_descriptors_and_messages) {
    struct rlimit limit = {256, 256};
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    int fd = udp();
    AS("message", message_to(fd, "echo one", peer(7000)));
    answered("  answer", fd);
}

PROBE(v6only) {
    int fd = udp();
    if (family == AF_INET)
        return;
    MUST(set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    AS("send", send_to(fd, "echo x", peer(7000)));
    fd = udp();
    MUST(set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    AS("connect", CONNECT(fd, peer(7000)));
    say("%d", get(fd, IPPROTO_IPV6, IPV6_V6ONLY));
}
