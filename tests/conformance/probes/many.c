/* Numbers: many connections, many processes, many bytes. */
#include "probe.h"

PROBE(a_thousand_in_a_row)
{
    int fd = listener(), good = 0, highest = 0;
    addr_t to = at(port_of(fd));
    for (int i = 0; i < 1000; i++) {
        int client = tcp();
        MUST(connect(client, &to.sa, to.len));
        int served = MUST(accept(fd, NULL, NULL)), out = i, in = -1;
        send_all(client, &out, sizeof out);
        recv_all(served, &in, sizeof in);
        good += in == out;
        highest = served > highest ? served : highest;
        close(served);
        close(client);
    }
    say("good %d, descriptors stay low %d", good, highest < 10);
}

PROBE(five_hundred_at_once)
{
    enum { COUNT = 500 };
    static int clients[COUNT], served[COUNT];
    struct rlimit limit = {4096, 4096};
    setrlimit(RLIMIT_NOFILE, &limit);
    int fd = listener_at(at(0), 1024), good = 0;
    for (int i = 0; i < COUNT; i++)
        clients[i] = client_of(fd);
    for (int i = 0; i < COUNT; i++)
        served[i] = MUST(accept(fd, NULL, NULL));
    for (int i = 0; i < COUNT; i++)
        send_all(clients[i], &i, sizeof i);
    for (int i = 0; i < COUNT; i++) {
        int value = -1;
        recv_all(served[i], &value, sizeof value);
        good += value == i;
    }
    say("good %d", good);
}

static void worker(int fd, int id, int tell)
{
    for (;;) {
        int one = accept(fd, NULL, NULL);
        if (one < 0)
            die("accept");
        char c;
        recv_all(one, &c, 1);
        send_all(one, &c, 1);
        close(one);
        char name = (char)('0' + id);
        MUST(write(tell, &name, 1));
    }
}

PROBE(preforked_server)
{
    int fd = listener(), tell[2], total = 0;
    addr_t to = at(port_of(fd));
    MUST(pipe(tell));
    for (int i = 0; i < 4; i++)
        CHILD(worker(fd, i, tell[1]));
    close(fd);
    for (int i = 0; i < 200; i++) {
        char c = (char)i, got = 0, who;
        int client = tcp();
        MUST(connect(client, &to.sa, to.len));
        send_all(client, &c, 1);
        recv_all(client, &got, 1);
        MUST(read(tell[0], &who, 1));
        total += got == c;
        close(client);
    }
    say("served %d", total);
}

PROBE(reuseport_server)
{
    int port = 0, tell[2], ready[2], total = 0, who[4] = {0};
    MUST(pipe(tell));
    MUST(pipe(ready));
    int first = tcp();
    MUST(set(first, SOL_SOCKET, SO_REUSEPORT, 1));
    MUST(BIND(first, at(0)));
    port = port_of(first);
    for (int i = 0; i < 4; i++)
        CHILD(int fd = tcp(); MUST(set(fd, SOL_SOCKET, SO_REUSEPORT, 1)); MUST(BIND(fd, at(port))); MUST(listen(fd, 64));
              MUST(write(ready[1], "r", 1)); worker(fd, i, tell[1]));
    for (int i = 0; i < 4; i++) {
        char c;
        MUST(read(ready[0], &c, 1));
    }
    close(first);
    for (int i = 0; i < 200; i++) {
        char c = (char)i, got = 0, name;
        int client = tcp();
        MUST(CONNECT(client, at(port)));
        send_all(client, &c, 1);
        recv_all(client, &got, 1);
        MUST(read(tell[0], &name, 1));
        who[name - '0']++;
        total += got == c;
        close(client);
    }
    int busy = 0;
    for (int i = 0; i < 4; i++)
        busy += who[i] > 0;
    say("served %d, each of 4 had some: %d", total, busy == 4);
}

PROBE(reuseport_member_leaves)
{
    int one = tcp(), two = tcp(), port, served = 0;
    MUST(set(one, SOL_SOCKET, SO_REUSEPORT, 1));
    MUST(set(two, SOL_SOCKET, SO_REUSEPORT, 1));
    MUST(BIND(one, at(0)));
    port = port_of(one);
    MUST(BIND(two, at(port)));
    MUST(listen(one, 64));
    MUST(listen(two, 64));
    close(one);
    for (int i = 0; i < 20; i++) {
        int client = tcp();
        MUST(CONNECT(client, at(port)));
        int fd = MUST(accept(two, NULL, NULL));
        served++;
        close(fd);
        close(client);
    }
    say("the one that stayed served %d", served);
    close(two);
    AS("nobody", CONNECT(tcp(), at(port)));
}

static uint64_t mix(uint64_t hash, const unsigned char *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ data[i]) * 1099511628211UL;
    return hash;
}

static void fill(unsigned char *block, size_t size, uint64_t *state)
{
    for (size_t i = 0; i < size; i++) {
        *state = *state * 6364136223846793005UL + 1442695040888963407UL;
        block[i] = (unsigned char)(*state >> 33);
    }
}

/* SIZE bytes one way, in pieces of odd sizes; prints the hash of what came. */
static void stream(int out, uint64_t seed, long size)
{
    static unsigned char block[70001];
    uint64_t state = seed, hash = 14695981039346656037UL;
    for (long left = size; left;) {
        size_t n = left < (long)sizeof block ? (size_t)left : sizeof block;
        fill(block, n, &state);
        hash = mix(hash, block, n);
        send_all(out, block, n);
        left -= (long)n;
    }
    MUST(shutdown(out, SHUT_WR));
}

static uint64_t drained(int in, long *size)
{
    static unsigned char block[65536];
    uint64_t hash = 14695981039346656037UL;
    ssize_t n;
    *size = 0;
    while ((n = recv(in, block, sizeof block, 0)) > 0) {
        hash = mix(hash, block, (size_t)n);
        *size += n;
    }
    if (n < 0)
        die("recv");
    return hash;
}

PROBE(large_transfers_both_ways)
{
    enum { SIZE = 24 << 20 };
    int ends[2];
    long size;
    connection(ends);
    pid_t one = CHILD(close(ends[1]); stream(ends[0], 1, SIZE)), two = CHILD(close(ends[0]); stream(ends[1], 2, SIZE));
    pid_t reader = CHILD(close(ends[0]); long got; uint64_t hash = drained(ends[1], &got);
                         if (got != SIZE) die("size"); if (hash == 0) die("hash");
                         char line[64]; snprintf(line, sizeof line, "%016lx", hash); setenv("x", line, 1);
                         int file = open("/dev/null", O_WRONLY); close(file); _exit((int)(hash & 0x7f)));
    uint64_t hash = drained(ends[0], &size);
    say("one way: %ld bytes, %016lx", size, hash);
    join("the other way", reader);
    join("", one);
    join("", two);
}

PROBE(slow_reader)
{
    /* the writer blocks until there is room, and nothing is lost */
    enum { SIZE = 3 << 20 };
    int ends[2];
    connection(ends);
    MUST(set(ends[0], SOL_SOCKET, SO_SNDBUF, 20000));
    MUST(set(ends[1], SOL_SOCKET, SO_RCVBUF, 20000));
    pid_t writer = CHILD(close(ends[1]); stream(ends[0], 3, SIZE));
    close(ends[0]);
    until_asleep(writer, writer);
    long size;
    uint64_t hash = drained(ends[1], &size);
    say("%ld bytes, %016lx", size, hash);
    join("writer", writer);
}

PROBE(small_messages_in_order)
{
    int ends[2], wrong = 0;
    connection(ends);
    pid_t writer = CHILD(for (int i = 0; i < 20000; i++) send_all(ends[0], &i, sizeof i));
    for (int i = 0; i < 20000; i++) {
        int value;
        recv_all(ends[1], &value, sizeof value);
        wrong += value != i;
    }
    join("writer", writer);
    say("wrong %d", wrong);
}

PROBE(chain)
{
    /* a client behind ten hops, each a process with a listener and a connection onwards */
    enum { HOPS = 10 };
    int fd = listener(), port = port_of(fd);
    CHILD(for (;;) {
        int one = MUST(accept(fd, NULL, NULL));
        char c;
        recv_all(one, &c, 1);
        c++;
        send_all(one, &c, 1);
        close(one);
    });
    for (int i = 0; i < HOPS; i++) {
        int next = listener(), onwards = port;
        port = port_of(next);
        CHILD(for (;;) {
            int one = MUST(accept(next, NULL, NULL)), up = tcp();
            char c;
            MUST(CONNECT(up, at(onwards)));
            recv_all(one, &c, 1);
            send_all(up, &c, 1);
            recv_all(up, &c, 1);
            c++;
            send_all(one, &c, 1);
            close(up);
            close(one);
        });
        close(next);
    }
    char c = 'A';
    int client = tcp();
    MUST(CONNECT(client, at(port)));
    send_all(client, &c, 1);
    recv_all(client, &c, 1);
    say("came back as %c", c);
}
