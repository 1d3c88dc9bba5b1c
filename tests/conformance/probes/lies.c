/* Pointers and lengths that lie: each gets the errno that Linux gives, and whoever looks at them survives. */
#include "probe.h"

static char *unmapped, *forbidden, *readonly, *edge;
static const struct {
    const char *label;
    char **at;
    unsigned long fixed;
} bad_places[] = {
    {"unmapped", &unmapped, 0},
    {"PROT_NONE", &forbidden, 0},
    {"8", NULL, 8},
    {"kernel", NULL, 0xffff800000001000UL},
    {"vsyscall", NULL, 0xffffffffff600000UL},
    {"not canonical", NULL, 0x0000800000001000UL},
    {"wraps", NULL, 0xfffffffffffffff8UL},
};
enum { PLACES = sizeof bad_places / sizeof *bad_places };
static void *bad(int i) { return bad_places[i].at ? *bad_places[i].at : (void *)bad_places[i].fixed; }

static void prepare(void)
{
    unmapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(unmapped, 4096);
    forbidden = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    readonly = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *two = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(two + 4096, 4096, PROT_NONE);
    edge = two + 4096; /* readable before, nothing from here */
}

PROBE(addresses_in)
{
    prepare();
    int fd = listener();
    addr_t to = at(port_of(fd));
    for (int i = 0; i < PLACES; i++) {
        say("%s", bad_places[i].label);
        AS("connect", connect(tcp(), bad(i), to.len));
        AS("bind", bind(tcp(), bad(i), to.len));
        AS("sendto", sendto(tcp(), "x", 1, MSG_FASTOPEN | MSG_NOSIGNAL, bad(i), to.len));
    }
    AS("no address, no length", connect(tcp(), bad(0), 0));
    AS("no address, one byte", connect(tcp(), bad(0), 1));
    AS("no address, negative", connect(tcp(), bad(0), -1));
    AS("no address, too long", connect(tcp(), bad(0), 129));
}

PROBE(addresses_across_a_border)
{
    prepare();
    int fd = listener();
    addr_t to = at(port_of(fd));
    memcpy(edge - to.len, &to.ss, to.len);
    AS("ends at the border", connect(tcp(), (void *)(edge - to.len), to.len));
    AS("one byte beyond", connect(tcp(), (void *)(edge - to.len), to.len + 1));
    AS("half beyond", connect(tcp(), (void *)(edge - 8), to.len));
    memcpy(edge - to.len, &to.ss, to.len);
    AS("bind, one byte beyond", bind(tcp(), (void *)(edge - to.len), to.len + 1));
}

PROBE(address_in_read_only_memory)
{
    addr_t to = at(port_of(listener()));
    int file = MUST(memfd_create("address", 0));
    MUST(write(file, &to.ss, sizeof to.ss));
    void *map = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0);
    AS("connect", connect(tcp(), map, to.len));
    MUST(ftruncate(file, 0));
    AS("behind the end of the file", connect(tcp(), map, to.len));
}

PROBE(names_out)
{
    prepare();
    int ends[2];
    connection(ends);
    for (int i = 0; i < PLACES; i++) {
        socklen_t length = 128;
        char room[128];
        say("%s", bad_places[i].label);
        AS("getsockname", getsockname(ends[0], bad(i), &length));
        AS("getpeername", getpeername(ends[0], bad(i), &length));
        AS("getsockname's length", getsockname(ends[0], (void *)room, bad(i)));
        AS("getpeername's length", getpeername(ends[0], (void *)room, bad(i)));
    }
    socklen_t length = 128;
    AS("read-only", getsockname(ends[0], (void *)readonly, &length));
    AS("read-only length", getsockname(ends[0], (void *)edge - 64, (void *)readonly));
    length = 128;
    AS("room for it all before the border", getsockname(ends[0], (void *)(edge - sizeof(struct sockaddr_in6)), &length));
    length = 128;
    AS("no room before the border", getsockname(ends[0], (void *)(edge - 8), &length));
    length = 8;
    AS("as much as was asked", getsockname(ends[0], (void *)(edge - 8), &length));
}

PROBE(options_in_and_out)
{
    prepare();
    int fd = tcp(), value;
    for (int i = 0; i < PLACES; i++) {
        socklen_t length = 4;
        say("%s", bad_places[i].label);
        AS("set TCP", setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, bad(i), 4));
        AS("set socket", setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, bad(i), 4));
        AS("set IP", setsockopt(fd, IPPROTO_IP, IP_TOS, bad(i), 4));
        AS("get TCP", getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, bad(i), &length));
        AS("get socket", getsockopt(fd, SOL_SOCKET, SO_DOMAIN, bad(i), &length));
        AS("get info", getsockopt(fd, IPPROTO_TCP, TCP_INFO, bad(i), &length));
        AS("getter's length", getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, bad(i)));
    }
    socklen_t length = 4;
    AS("read-only", getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, readonly, &length));
    AS("read-only length", getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, (void *)readonly));
    AS("set from read-only", setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, readonly, 4));
    length = 4;
    AS("across the border", getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, edge - 2, &length));
    AS("set across the border", setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, edge - 2, 4));
    AS("set huge", setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, edge - 4, INT32_MAX));
    AS("set huge congestion", setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, edge - 4, INT32_MAX));
    AS("set negative", setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, edge - 4, -1));
    AS("set negative congestion", setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, edge - 4, -1));
}

PROBE(accept_out)
{
    prepare();
    for (int i = 0; i < PLACES; i++) {
        int fd = listener();
        socklen_t length = 128;
        client_of(fd);
        say("%s", bad_places[i].label);
        AS("address", accept(fd, bad(i), &length));
        client_of(fd);
        char room[128];
        fd = listener();
        client_of(fd);
        AS("length", accept(fd, (void *)room, bad(i)));
    }
    int fd = listener();
    client_of(fd);
    socklen_t length = 128;
    AS("read-only", accept(fd, (void *)readonly, &length));
    fd = listener();
    client_of(fd);
    length = 128;
    AS("across the border", accept(fd, (void *)(edge - 8), &length));
}

PROBE(messages)
{
    prepare();
    int ends[2];
    connection(ends);
    AS("sendmsg", sendmsg(ends[0], bad(0), 0));
    AS("sendmsg fast open", sendmsg(tcp(), bad(0), MSG_FASTOPEN | MSG_NOSIGNAL));
    struct iovec io = {bad(1), 4};
    addr_t to = at(port_of(listener()));
    struct msghdr message = {.msg_name = bad(1), .msg_namelen = to.len, .msg_iov = &io, .msg_iovlen = 1};
    AS("fast open to nowhere", sendmsg(tcp(), &message, MSG_FASTOPEN | MSG_NOSIGNAL));
    message.msg_name = &to.ss;
    message.msg_iov = bad(2);
    AS("fast open from nowhere", sendmsg(tcp(), &message, MSG_FASTOPEN | MSG_NOSIGNAL));
    message.msg_iovlen = 100000;
    AS("fast open of too much", sendmsg(tcp(), &message, MSG_FASTOPEN | MSG_NOSIGNAL));
}

PROBE(huge_numbers)
{
    addr_t to = at(port_of(listener()));
    AS("descriptor 1<<30", connect(1 << 30, &to.sa, to.len));
    AS("INT_MIN", connect(INT32_MIN, &to.sa, to.len));
    AS("socket huge", socket(INT32_MAX, INT32_MAX, INT32_MAX));
    AS("socket INT_MIN", socket(INT32_MIN, INT32_MIN, INT32_MIN));
    AS("shutdown huge", shutdown(tcp(), INT32_MAX));
    AS("accept4 huge", accept4(listener(), NULL, NULL, INT32_MIN));
}

/* Another thread rewrites the address while it is looked at: each connection goes to one of the two, whole. */
static volatile int stop;
static addr_t raced, first, second;
static void *rewrite(void *unused)
{
    (void)unused;
    while (!stop) {
        memcpy(&raced.ss, &first.ss, first.len);
        memcpy(&raced.ss, &second.ss, second.len);
    }
    return NULL;
}

PROBE(address_rewritten)
{
    enum { COUNT = 300 };
    int one = listener(), two = listener(), counted = 0, elsewhere = 0;
    pthread_t thread;
    first = at(port_of(one));
    second = at(port_of(two));
    raced = first;
    MUST(fcntl(one, F_SETFL, O_NONBLOCK));
    MUST(fcntl(two, F_SETFL, O_NONBLOCK));
    pthread_create(&thread, NULL, rewrite, NULL);
    for (int i = 0; i < COUNT; i++) {
        int client = tcp();
        if (connect(client, &raced.sa, raced.len) == 0) {
            addr_t peer = peername(client);
            int served = accept(port_in(&peer) == port_in(&first) ? one : two, NULL, NULL);
            if (served < 0)
                elsewhere++;
            else
                close(served);
            counted++;
        }
        close(client);
    }
    stop = 1;
    pthread_join(thread, NULL);
    say("connected %d, elsewhere than its name says %d", counted, elsewhere);
}

PROBE(family_rewritten)
{
    enum { COUNT = 300 };
    int one = listener(), good = 0, refused = 0, other = 0;
    pthread_t thread;
    first = at(port_of(one));
    second = first;
    second.sa.sa_family = AF_UNIX;
    raced = first;
    pthread_create(&thread, NULL, rewrite, NULL);
    for (int i = 0; i < COUNT; i++) {
        int client = tcp();
        if (connect(client, &raced.sa, raced.len) == 0) {
            good++;
            close(MUST(accept(one, NULL, NULL)));
        } else if (errno == EAFNOSUPPORT)
            refused++;
        else
            other++;
        close(client);
    }
    stop = 1;
    pthread_join(thread, NULL);
    say("good and refused %d, other %d", good + refused, other);
}

static volatile int flipped;
static void *flip(void *argument)
{
    while (!stop) {
        munmap(argument, 4096);
        mmap(argument, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        memcpy(argument, &first.ss, first.len);
        flipped++;
    }
    return NULL;
}

PROBE(memory_comes_and_goes)
{
    enum { COUNT = 300 };
    int one = listener(), expected = 0;
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_t thread;
    first = at(port_of(one));
    memcpy(page, &first.ss, first.len);
    pthread_create(&thread, NULL, flip, page);
    MUST(fcntl(one, F_SETFL, O_NONBLOCK));
    for (int i = 0; i < COUNT; i++) {
        int client = tcp();
        int error = connect(client, page, first.len) < 0 ? errno : 0;
        /* a fresh page is all zero: AF_UNSPEC, which disconnects */
        if (error == 0 || error == EFAULT || error == EAFNOSUPPORT || error == ECONNREFUSED ||
            error == ENETUNREACH || error == EHOSTUNREACH) /* half an address leads anywhere */
            expected++;
        else
            say("unexpected: %s", name_of_errno(error));
        close(accept(one, NULL, NULL));
        close(client);
    }
    stop = 1;
    pthread_join(thread, NULL);
    say("as expected: %d", expected);
}

static int raced_descriptor;
static int other_listener;
static void *swap_descriptor(void *unused)
{
    (void)unused;
    while (!stop) {
        int fresh = socket(family, SOCK_STREAM, 0);
        if (fresh >= 0 && fresh != raced_descriptor) {
            dup2(fresh, raced_descriptor);
            close(fresh);
        }
    }
    return NULL;
}

PROBE(descriptor_replaced)
{
    /* the number names another socket while the call is looked at */
    enum { COUNT = 300 };
    int one = listener(), sane = 0;
    pthread_t thread;
    addr_t to = at(port_of(one));
    other_listener = one;
    raced_descriptor = tcp();
    MUST(fcntl(one, F_SETFL, O_NONBLOCK));
    pthread_create(&thread, NULL, swap_descriptor, NULL);
    for (int i = 0; i < COUNT; i++) {
        int error = connect(raced_descriptor, &to.sa, to.len) < 0 ? errno : 0;
        sane += error == 0 || error == EISCONN || error == EALREADY || error == EBADF || error == ECONNREFUSED ||
                error == EINPROGRESS;
        int served;
        while ((served = accept(one, NULL, NULL)) >= 0)
            close(served);
    }
    stop = 1;
    pthread_join(thread, NULL);
    say("sane: %d", sane);
    int client = tcp();
    MUST(CONNECT(client, to));
    poll_one(one, POLLIN, 4000);
    int served;
    char c;
    send_all(client, "z", 1);
    for (;;) { /* leftovers first */
        poll_one(one, POLLIN, 4000);
        served = MUST(accept(one, NULL, NULL));
        if (recv(served, &c, 1, 0) == 1)
            break;
        close(served);
    }
    say("and still it works: %c", c);
}
