/* bind(2). */
#include "probe.h"

PROBE(port_zero)
{
    int fd = tcp(), other = tcp();
    AS("self", BIND(fd, at(0)));
    AS("again self", BIND(other, at(0)));
    say_sockname("name", fd);
    say("different ports: %d", port_of(fd) != port_of(other));
}

PROBE(wildcard)
{
    int fd = tcp();
    AS("any", BIND(fd, any(0)));
    say_sockname("name", fd);
}

PROBE(given_port)
{
    int port = unused_port(), fd = tcp();
    AS("bind", BIND(fd, at(port)));
    say("that port: %d", port_of(fd) == port);
}

PROBE(in_use)
{
    int fd = tcp(), other = tcp();
    MUST(BIND(fd, at(0)));
    AS("same", BIND(other, at(port_of(fd))));
    AS("wildcard over it", BIND(other, any(port_of(fd))));
    AS("after a failure, port 0", BIND(other, at(0)));
}

PROBE(in_use_by_another_process)
{
    int fd = listener(), port = port_of(fd);
    join("child", CHILD(int mine = tcp(); AS("same", BIND(mine, at(port))); AS("any", BIND(mine, any(port)))));
}

PROBE(other_address_same_port)
{
    int fd = tcp(), other = tcp();
    MUST(BIND(fd, loopback(0)));
    addr_t a = at(port_of(fd)), b = sockname(fd);
    if (same_ip(&a, &b)) {
        a = family == AF_INET ? parse("127.0.0.2", port_of(fd)) : nobody(port_of(fd));
    }
    AS("the other address", bind(other, &a.sa, a.len));
}

PROBE(rebind_after_close)
{
    int fd = listener(), port = port_of(fd);
    close(fd);
    fd = tcp();
    AS("bind", BIND(fd, at(port)));
    AS("listen", listen(fd, 5));
}

PROBE(rebind_listening_after_connections)
{
    int fd = tcp();
    MUST(set(fd, SOL_SOCKET, SO_REUSEADDR, 1));
    MUST(BIND(fd, at(0)));
    MUST(listen(fd, 5));
    int port = port_of(fd), client = client_of(fd), served = MUST(accept(fd, NULL, NULL));
    close(fd);
    int again = tcp();
    MUST(set(again, SOL_SOCKET, SO_REUSEADDR, 1));
    AS("bind with SO_REUSEADDR while a connection lives", BIND(again, at(port)));
    AS("listen", listen(again, 5));
    talk("the old connection", client, served);
    int second = tcp();
    AS("connect", CONNECT(second, at(port)));
    int two = ASFD("accept", accept(again, NULL, NULL));
    talk("the new connection", second, two);
}

PROBE(not_our_address)
{
    int fd = tcp();
    AS("nobody", BIND(fd, nobody(0)));
    AS("and then our own", BIND(fd, at(0)));
}

PROBE(twice)
{
    int fd = tcp();
    MUST(BIND(fd, at(0)));
    AS("again", BIND(fd, at(0)));
    AS("again wildcard", BIND(fd, any(0)));
    AS("same", BIND(fd, sockname(fd)));
}

PROBE(after_connect)
{
    int ends[2];
    connection(ends);
    AS("client", BIND(ends[0], at(0)));
    AS("server", BIND(ends[1], at(0)));
}

PROBE(after_listen)
{
    int fd = listener();
    AS("bind", BIND(fd, at(0)));
}

PROBE(lengths)
{
    addr_t a = at(0);
    static const int lengths[] = {0, 1, 2, 7, 8, 15, 16, 23, 24, 27, 28, 29, 64, 128, 129, 4096, -1, INT32_MIN, INT32_MAX};
    char raw[5000] = {0};
    memcpy(raw, &a.ss, sizeof a.ss);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char label[32];
        int fd = tcp();
        snprintf(label, sizeof label, "length %d", lengths[i]);
        AS(label, bind(fd, (struct sockaddr *)raw, lengths[i]));
        close(fd);
    }
}

PROBE(families)
{
    addr_t a = at(0);
    static const struct {
        int family;
        const char *label;
    } cases[] = {{AF_UNIX, "AF_UNIX"}, {AF_INET, "AF_INET"},   {AF_INET6, "AF_INET6"},
                 {AF_UNSPEC, "AF_UNSPEC"}, {99, "99"}, {65535, "65535"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int fd = tcp();
        addr_t one = a, wild = any(0);
        one.sa.sa_family = wild.sa.sa_family = cases[i].family;
        char label[64];
        snprintf(label, sizeof label, "self as %s", cases[i].label);
        AS(label, bind(fd, &one.sa, one.len));
        close(fd);
        fd = tcp();
        snprintf(label, sizeof label, "any as %s", cases[i].label);
        AS(label, bind(fd, &wild.sa, wild.len));
        close(fd);
    }
}

PROBE(bad_arguments)
{
    int fd = tcp(), pipes[2];
    addr_t a = at(0);
    MUST(pipe(pipes));
    TRY(bind(fd, NULL, sizeof(struct sockaddr_in6)));
    TRY(bind(fd, NULL, 0));
    TRY(bind(fd, (struct sockaddr *)8, sizeof(struct sockaddr_in6)));
    TRY(bind(-1, &a.sa, a.len));
    TRY(bind(999, &a.sa, a.len));
    TRY(bind(pipes[0], &a.sa, a.len));
    AS("and in the end", bind(fd, &a.sa, a.len));
}

PROBE(low_port)
{
    int fd = tcp();
    AS("port 81 as root", BIND(fd, at(81)));
}

PROBE(special_addresses)
{
    if (family == AF_INET) {
        AS("broadcast", BIND(tcp(), parse("255.255.255.255", 0)));
        AS("127.0.0.2", BIND(tcp(), parse("127.0.0.2", 0)));
        AS("127.255.255.254", BIND(tcp(), parse("127.255.255.254", 0)));
    } else {
        AS("link-local without a scope", BIND(tcp(), parse("fe80::1", 0)));
        AS("mapped loopback", BIND(tcp(), parse("::ffff:127.0.0.1", 0)));
        AS("::2", BIND(tcp(), parse("::2", 0)));
    }
}

PROBE(no_port_until_connect)
{
    int fd = tcp(), listening = listener();
    TRY(set(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1));
    AS("bind", BIND(fd, at(0)));
    say_sockname("before", fd);
    AS("connect", CONNECT(fd, at(port_of(listening))));
    say_sockname("after", fd);
}

static const char *const option_names[] = {"-", "REUSEADDR", "REUSEPORT", "both"};

static int with_options(int options)
{
    int fd = tcp();
    if (options & 1)
        MUST(set(fd, SOL_SOCKET, SO_REUSEADDR, 1));
    if (options & 2)
        MUST(set(fd, SOL_SOCKET, SO_REUSEPORT, 1));
    return fd;
}

static void matrix(bool listening, int from, int to)
{
    static const char *const places[] = {"self self", "any any", "any self", "self any"};
    for (int place = from; place < to; place++)
        for (int first = 0; first < 4; first++)
            for (int second = 0; second < 4; second++) {
                int one = with_options(first), two = with_options(second);
                MUST(BIND(one, place == 1 || place == 2 ? any(0) : at(0)));
                if (listening)
                    MUST(listen(one, 5));
                int port = port_of(one);
                int result = BIND(two, place == 1 || place == 3 ? any(port) : at(port)) < 0 ? errno : 0;
                int listened = result ? 0 : listen(two, 5) < 0 ? errno : 0;
                say("%s, %s then %s: bind %s%s%s", places[place], option_names[first], option_names[second],
                    name_of_errno(result), result ? "" : ", listen ", result ? "" : name_of_errno(listened));
                close(one);
                close(two);
            }
}

PROBE(reuse_of_the_same_bound) { matrix(false, 0, 2); }
PROBE(reuse_of_the_same_listening) { matrix(true, 0, 2); }
PROBE(reuse_of_any_and_one_bound) { matrix(false, 2, 4); }
PROBE(reuse_of_any_and_one_listening) { matrix(true, 2, 4); }

PROBE(reuse_set_late)
{
    int one = tcp(), two = tcp();
    MUST(BIND(one, at(0)));
    MUST(BIND(two, at(0)));
    AS("SO_REUSEADDR after bind", set(one, SOL_SOCKET, SO_REUSEADDR, 1));
    AS("SO_REUSEPORT after bind", set(one, SOL_SOCKET, SO_REUSEPORT, 1));
    say("they read %d %d", get(one, SOL_SOCKET, SO_REUSEADDR), get(one, SOL_SOCKET, SO_REUSEPORT));
}

PROBE(outgoing_does_not_block_listening)
{
    /* a client that was bound to a port, with SO_REUSEADDR everywhere, does not keep a listener from it */
    int listening = listener(), client = with_options(1);
    MUST(BIND(client, at(0)));
    MUST(CONNECT(client, at(port_of(listening))));
    int other = with_options(1);
    AS("bind", BIND(other, at(port_of(client))));
    AS("listen", listen(other, 5));
    int plain = tcp();
    AS("bind without the option", BIND(plain, at(port_of(client))));
}

PROBE(connected_keeps_its_port)
{
    int ends[2] = {tcp()}, listening = listener();
    MUST(BIND(ends[0], at(0)));
    MUST(CONNECT(ends[0], at(port_of(listening))));
    int port = port_of(ends[0]);
    AS("another of its port", BIND(tcp(), at(port)));
    AS("and again", BIND(tcp(), any(port)));
    ends[1] = MUST(accept(listening, NULL, NULL));
    talk("it", ends[0], ends[1]);
    close(ends[1]); /* first: whoever closes first keeps the port for a minute, tcp(7) */
    char byte;
    AS("end of file", read(ends[0], &byte, 1));
    close(ends[0]);
    AS("when it has gone", BIND(tcp(), at(port)));
}
