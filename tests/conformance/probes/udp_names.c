/* UDP sockets before any data: socket, bind, connect, names, options, and their errors. */
#include "udp.h"

static addr_t unspec(void) {
    addr_t a;
    memset(&a, 0, sizeof a);
    a.len = sizeof a.sa;
    return a;
}

PROBE(fresh) {
    static const struct {
        const char *name;
        int option;
    } options[] = {{"SO_TYPE", SO_TYPE},           {"SO_PROTOCOL", SO_PROTOCOL},
                   {"SO_DOMAIN", SO_DOMAIN},       {"SO_REUSEADDR", SO_REUSEADDR},
                   {"SO_REUSEPORT", SO_REUSEPORT}, {"SO_ERROR", SO_ERROR},
                   {"SO_BROADCAST", SO_BROADCAST}, {"SO_ACCEPTCONN", SO_ACCEPTCONN},
                   {"SO_KEEPALIVE", SO_KEEPALIVE}, {"SO_RCVBUF", SO_RCVBUF},
                   {"SO_MARK", SO_MARK},           {"SO_PRIORITY", SO_PRIORITY},
                   {"SO_RCVLOWAT", SO_RCVLOWAT},   {"SO_NO_CHECK", SO_NO_CHECK},
                   {"SO_DONTROUTE", SO_DONTROUTE}};
    int fd = udp();
    say_flags("flags", fd);
    say_sockname("sockname", fd);
    say_peername("peername", fd);
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        say("%s %d", options[i].name, get(fd, SOL_SOCKET, options[i].option));
    EVENTS("poll", fd, POLLIN | POLLOUT | POLLRDHUP, 0);
    TRY(listen(fd, 1));
    TRY(accept(fd, NULL, NULL));
}

PROBE(kinds) {
    int fd = TRYFD(socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    say_flags("both", fd);
    say_flags("CLOEXEC", TRYFD(socket(family, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_UDP)));
    TRYFD(socket(family, SOCK_DGRAM, IPPROTO_TCP));
    TRYFD(socket(family, SOCK_DGRAM, 999));
    TRYFD(socket(family, SOCK_DGRAM, -1));
    TRYFD(socket(family, SOCK_DGRAM | 0x100000, 0));
    TRYFD(socket(family, SOCK_DGRAM | 0x100, IPPROTO_UDP));
    TRYFD(socket(family == AF_INET ? AF_INET6 : AF_INET, SOCK_DGRAM, IPPROTO_UDP));
    TRYFD(socketpair(family, SOCK_DGRAM, 0, (int[2]){0}));
}

PROBE(bound) {
    int fd = udp();
    TRY(BIND(fd, at(0)));
    say_sockname("self", fd);
    say_peername("peer", fd);
    TRY(BIND(fd, at(0)));
    fd = udp();
    TRY(BIND(fd, any(0)));
    say_sockname("any", fd);
    fd = udp();
    TRY(BIND(fd, loopback(0)));
    say_sockname("loopback", fd);
    int port = unused_udp_port();
    fd = udp();
    TRY(BIND(fd, at(port)));
    say("as asked: %d", port_of(fd) == port);
    AS("TCP beside it", BIND(tcp(), at(port)));
    close(fd);
    AS("after close", BIND(udp(), at(port)));
}

PROBE(bind_elsewhere) {
    TRY(BIND(udp(), nobody(0)));
    TRY(BIND(udp(), nobody(5000)));
    TRY(BIND(udp(), parse(family == AF_INET ? "127.8.9.10" : "::2", 0)));
    TRY(BIND(udp(), parse(family == AF_INET ? "255.255.255.255" : "ff02::1", 0)));
    TRY(BIND(udp(), parse(family == AF_INET ? "224.0.0.251" : "ff05::2", 0)));
    TRY(BIND(udp(), parse(family == AF_INET ? "8.8.8.8" : "2001:4860:4860::8888", 53)));
    TRY(BIND(udp(), parse(family == AF_INET ? "169.254.1.1" : "fe80::1", 0)));
    if (family == AF_INET6) {
        addr_t local = parse("fe80::1", 0);
        local.in6.sin6_scope_id = 1;
        AS("with a scope", BIND(udp(), local));
        local.in6.sin6_scope_id = 99;
        AS("with a wrong scope", BIND(udp(), local));
    }
    int fd = udp();
    AS("fails", BIND(fd, nobody(0)));
    say_sockname("after it", fd);
    AS("then works", BIND(fd, at(0)));
}

PROBE(bind_lies) {
    int fd = udp(), port = unused_udp_port(), pipes[2];
    addr_t to = at(port);
    MUST(pipe(pipes));
    TRY(bind(fd, &to.sa, 0));
    TRY(bind(fd, &to.sa, 1));
    TRY(bind(fd, &to.sa, 2));
    TRY(bind(fd, &to.sa, to.len - 1));
    TRY(bind(fd, &to.sa, 200));
    TRY(bind(fd, &to.sa, -1));
    TRY(bind(fd, (void *)8, to.len));
    TRY(bind(fd, NULL, to.len));
    TRY(bind(fd, NULL, 0));
    TRY(bind(9999, &to.sa, to.len));
    TRY(bind(pipes[0], &to.sa, to.len));
    to.sa.sa_family = 77;
    AS("family 77", bind(fd, &to.sa, to.len));
    to.sa.sa_family = AF_UNIX;
    AS("AF_UNIX", bind(fd, &to.sa, to.len));
    to.sa.sa_family = family == AF_INET ? AF_INET6 : AF_INET;
    AS("other family", bind(fd, &to.sa, sizeof to.ss > 28 ? 28 : to.len));
    to = unspec();
    AS("AF_UNSPEC", bind(fd, &to.sa, 16));
    say_sockname("then", fd);
    fd = udp();
    to.raw[4] = 1;
    AS("AF_UNSPEC with an address", bind(fd, &to.sa, 16));
    to = at(unused_udp_port());
    AS("long", bind(fd, &to.sa, to.len + 8));
}

static void pair(const char *label, addr_t one, addr_t other, int first, int second) {
    int a = MUST(socket(one.sa.sa_family, SOCK_DGRAM, 0)), b = MUST(socket(other.sa.sa_family, SOCK_DGRAM, 0));
    if (first)
        MUST(set(a, SOL_SOCKET, first, 1));
    if (second)
        MUST(set(b, SOL_SOCKET, second, 1));
    MUST(bind(a, &one.sa, one.len));
    other = with_port(other, port_of(a));
    AS(label, bind(b, &other.sa, other.len));
    close(a);
    close(b);
}

PROBE(in_use) {
    pair("self, self", at(0), at(0), 0, 0);
    pair("any, any", any(0), any(0), 0, 0);
    pair("any, self", any(0), at(0), 0, 0);
    pair("self, any", at(0), any(0), 0, 0);
    pair("loopback, any", loopback(0), any(0), 0, 0);
    pair("loopback and another one", loopback(0), parse(family == AF_INET ? "127.0.0.9" : "::1", 0), 0, 0);
}

PROBE(reuse) {
    static const struct {
        int option;
        const char *name;
    } kinds[] = {{0, "none"}, {SO_REUSEADDR, "REUSEADDR"}, {SO_REUSEPORT, "REUSEPORT"}};
    for (int a = 0; a < 3; a++)
        for (int b = 0; b < 3; b++) {
            char label[64];
            snprintf(label, sizeof label, "%s, %s", kinds[a].name, kinds[b].name);
            pair(label, at(0), at(0), kinds[a].option, kinds[b].option);
            snprintf(label, sizeof label, "%s, %s, wildcard", kinds[a].name, kinds[b].name);
            pair(label, any(0), at(0), kinds[a].option, kinds[b].option);
        }
}

/* SO_REUSEADDR as the app has set it, whatever is needed underneath. */
PROBE(reuse_is_told) {
    int fd = udp();
    say("fresh %d", get(fd, SOL_SOCKET, SO_REUSEADDR));
    MUST(BIND(fd, at(0)));
    say("bound %d", get(fd, SOL_SOCKET, SO_REUSEADDR));
    TRY(set(fd, SOL_SOCKET, SO_REUSEADDR, 1));
    say("set after bind %d", get(fd, SOL_SOCKET, SO_REUSEADDR));
    AS("another one without", BIND(udp(), at(port_of(fd))));
    int other = udp();
    MUST(set(other, SOL_SOCKET, SO_REUSEADDR, 1));
    AS("another one with", BIND(other, at(port_of(fd))));
    TRY(set(fd, SOL_SOCKET, SO_REUSEADDR, 0));
    say("unset %d", get(fd, SOL_SOCKET, SO_REUSEADDR));
    fd = udp();
    TRY(set(fd, SOL_SOCKET, SO_REUSEADDR, 1));
    MUST(BIND(fd, at(0)));
    say("set before bind %d", get(fd, SOL_SOCKET, SO_REUSEADDR));
    MUST(CONNECT(fd, at(port_of(fd))));
    say("connected %d", get(fd, SOL_SOCKET, SO_REUSEADDR));
    char small = 7;
    socklen_t length = 1;
    TRY(getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &small, &length));
    say("in %d byte: %d", (int)length, small);
}

PROBE(reuse_unset_refuses) {
    int one = udp(), other = udp();
    MUST(set(one, SOL_SOCKET, SO_REUSEADDR, 1));
    MUST(BIND(one, at(0)));
    MUST(set(one, SOL_SOCKET, SO_REUSEADDR, 0));
    MUST(set(other, SOL_SOCKET, SO_REUSEADDR, 1));
    AS("after it was unset", BIND(other, at(port_of(one))));
}

PROBE(connected) {
    int server = udp_at(at(0)), other = udp_at(loopback(0)), fd = udp();
    TRY(CONNECT(fd, at(port_of(server))));
    say_sockname("sockname", fd);
    say_peername("peername", fd);
    addr_t peer = peername(fd);
    say("the server's port: %d", port_in(&peer) == port_of(server));
    int port = port_of(fd);
    AS("elsewhere", CONNECT(fd, loopback(port_of(other))));
    say_sockname("sockname", fd);
    say_peername("peername", fd);
    say("same port: %d", port_of(fd) == port);
    AS("back", CONNECT(fd, at(port_of(server))));
    say_sockname("sockname", fd);
    AS("bind", BIND(fd, at(0)));
    AS("disconnect", CONNECT(fd, unspec()));
    say_sockname("sockname", fd);
    say_peername("peername", fd);
    AS("disconnect again", CONNECT(fd, unspec()));
    AS("connect again", CONNECT(fd, at(port_of(server))));
    say_sockname("sockname", fd);
    exchange("talk", fd, server, at(port_of(server)));
}

PROBE(bound_and_connected) {
    int server = udp_at(any(0)), fd = udp();
    MUST(BIND(fd, any(0)));
    int port = port_of(fd);
    TRY(CONNECT(fd, at(port_of(server))));
    say_sockname("any, connected", fd);
    say("same port: %d", port_of(fd) == port);
    TRY(CONNECT(fd, unspec()));
    say_sockname("disconnected", fd);
    port = unused_udp_port();
    fd = udp_at(at(port));
    TRY(CONNECT(fd, at(port_of(server))));
    TRY(CONNECT(fd, unspec()));
    say_sockname("disconnected", fd);
    say("same port: %d", port_of(fd) == port);
    fd = udp_at(any(port = unused_udp_port()));
    TRY(CONNECT(fd, at(port_of(server))));
    TRY(CONNECT(fd, unspec()));
    say_sockname("disconnected", fd);
    say("same port: %d", port_of(fd) == port);
    exchange("talk", fd, server, at(port_of(server)));
}

PROBE(connect_to_itself) {
    int fd = udp_at(at(0));
    TRY(CONNECT(fd, at(port_of(fd))));
    TRY(send(fd, "me", 2, 0));
    say_received("received", fd);
    fd = udp();
    AS("unbound", CONNECT(fd, loopback(unused_udp_port())));
    say_sockname("sockname", fd);
}

PROBE(connect_to_any) {
    int server = udp_at(any(0)), fd = udp();
    TRY(CONNECT(fd, any(port_of(server))));
    say_sockname("sockname", fd);
    say_peername("peername", fd);
    TRY(send(fd, "x", 1, 0));
    say_received("received", server);
}

PROBE(connect_lies) {
    int fd = udp(), server = udp_at(at(0));
    addr_t to = at(port_of(server));
    TRY(connect(fd, &to.sa, 0));
    TRY(connect(fd, &to.sa, 1));
    TRY(connect(fd, &to.sa, to.len - 1));
    TRY(connect(fd, &to.sa, 200));
    TRY(connect(fd, &to.sa, -1));
    TRY(connect(fd, (void *)8, to.len));
    TRY(connect(fd, NULL, to.len));
    TRY(connect(9999, &to.sa, to.len));
    say_peername("none", fd);
    to.sa.sa_family = 77;
    AS("family 77", connect(fd, &to.sa, to.len));
    to.sa.sa_family = AF_UNIX;
    AS("AF_UNIX", connect(fd, &to.sa, to.len));
    to.sa.sa_family = AF_UNSPEC;
    AS("AF_UNSPEC, short", connect(fd, &to.sa, 2));
    AS("port 0", CONNECT(fd, at(0)));
    say_peername("peername", fd);
    AS("send to port 0", send(fd, "x", 1, 0));
    if (family == AF_INET) {
        to = parse("::1", 9);
        AS("IPv6 address", connect(udp(), &to.sa, to.len));
    } else {
        to = at4(9);
        AS("IPv4 address", connect(udp(), &to.sa, to.len));
        AS("unmapped, long", connect(udp(), &to.sa, 28));
    }
}

/* There is no route for them. */
PROBE(multicast_and_broadcast) {
    int fd = udp();
    addr_t group = parse(family == AF_INET ? "239.1.2.3" : "ff0e::123", 9999),
           link = parse(family == AF_INET ? "224.0.0.1" : "ff02::1", 9999);
    AS("connect to a group", CONNECT(fd, group));
    AS("connect to the link's", CONNECT(fd, link));
    AS("send to a group", send_to(fd, "x", group));
    AS("send to the link's", send_to(fd, "x", link));
    if (family == AF_INET) {
        addr_t all = parse("255.255.255.255", 9999);
        AS("broadcast", send_to(fd, "x", all));
        AS("connect to broadcast", CONNECT(fd, all));
        MUST(set(fd, SOL_SOCKET, SO_BROADCAST, 1));
        AS("broadcast, allowed", send_to(fd, "x", all));
        AS("connect to broadcast, allowed", CONNECT(fd, all));
        struct ip_mreq join = {.imr_multiaddr = group.in.sin_addr};
        AS("join", setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof join));
        AS("ttl", set(fd, IPPROTO_IP, IP_MULTICAST_TTL, 4));
        AS("loop", set(fd, IPPROTO_IP, IP_MULTICAST_LOOP, 0));
        say("ttl %d loop %d", get(fd, IPPROTO_IP, IP_MULTICAST_TTL), get(fd, IPPROTO_IP, IP_MULTICAST_LOOP));
    } else {
        struct ipv6_mreq join = {.ipv6mr_multiaddr = group.in6.sin6_addr};
        AS("join", setsockopt(fd, IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, &join, sizeof join));
        AS("hops", set(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 4));
        say("hops %d", get(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS));
        link.in6.sin6_scope_id = 1;
        addr_t local = parse("fe80::77", 9999);
        AS("link-local without a scope", send_to(fd, "x", local));
        AS("connect, link-local without a scope", CONNECT(fd, local));
    }
}

PROBE(names_lie) {
    int fd = udp_at(at(0));
    MUST(CONNECT(fd, at(port_of(fd))));
    addr_t a = {.len = 4};
    TRY(getsockname(fd, &a.sa, &a.len));
    say("%d", (int)a.len);
    a.len = 0;
    TRY(getpeername(fd, &a.sa, &a.len));
    say("%d", (int)a.len);
    a.len = -1;
    TRY(getsockname(fd, &a.sa, &a.len));
    TRY(getsockname(fd, (void *)8, &(socklen_t){16}));
    TRY(getsockname(fd, &a.sa, (void *)8));
    TRY(getpeername(fd, &a.sa, NULL));
    TRY(getpeername(9999, &a.sa, &a.len));
}

PROBE(options_stay) {
    int server = udp_at(at(0)), fd = udp();
    TRY(set(fd, SOL_SOCKET, SO_RCVBUF, 30000));
    TRY(set(fd, SOL_SOCKET, SO_SNDBUF, 40000));
    TRY(set(fd, SOL_SOCKET, SO_PRIORITY, 3));
    TRY(set(fd, SOL_SOCKET, SO_BROADCAST, 1));
    TRY(set(fd, SOL_SOCKET, SO_RCVLOWAT, 5));
    TRY(family == AF_INET ? set(fd, IPPROTO_IP, IP_TTL, 33) : set(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 33));
    TRY(family == AF_INET ? set(fd, IPPROTO_IP, IP_TOS, 0x20) : set(fd, IPPROTO_IPV6, IPV6_TCLASS, 0x20));
    MUST(CONNECT(fd, at(port_of(server))));
    say("%d %d %d %d %d", get(fd, SOL_SOCKET, SO_RCVBUF), get(fd, SOL_SOCKET, SO_SNDBUF),
        get(fd, SOL_SOCKET, SO_PRIORITY), get(fd, SOL_SOCKET, SO_BROADCAST), get(fd, SOL_SOCKET, SO_RCVLOWAT));
    say("%d %d", family == AF_INET ? get(fd, IPPROTO_IP, IP_TTL) : get(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS),
        family == AF_INET ? get(fd, IPPROTO_IP, IP_TOS) : get(fd, IPPROTO_IPV6, IPV6_TCLASS));
    TRY(set(fd, IPPROTO_TCP, TCP_NODELAY, 1));
    TRY(get(fd, IPPROTO_TCP, TCP_NODELAY));
    TRY(set(fd, IPPROTO_UDP, 12345, 1));
    TRY(set(fd, SOL_SOCKET, 12345, 1));
    TRY(set(fd, SOL_SOCKET, SO_TYPE, 1));
}

PROBE(v6only) {
    if (family == AF_INET) {
        say("option: %s", name_of_errno(-get(udp(), IPPROTO_IPV6, IPV6_V6ONLY)));
        return;
    }
    int fd = udp();
    say("fresh %d", get(fd, IPPROTO_IPV6, IPV6_V6ONLY));
    TRY(set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    say("set %d", get(fd, IPPROTO_IPV6, IPV6_V6ONLY));
    AS("mapped bind", BIND(fd, mapped(at4(0))));
    AS("mapped connect", CONNECT(fd, mapped(at4(9))));
    AS("mapped send", send_to(fd, "x", mapped(at4(9))));
    fd = udp();
    MUST(set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    MUST(BIND(fd, any(0)));
    int port = port_of(fd), four = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    AS("IPv4 beside it", BIND(four, any4(port)));
    TRY(set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0));
    fd = udp_at(any(0));
    AS("no IPv4 beside a dual one", BIND(MUST(socket(AF_INET, SOCK_DGRAM, 0)), any4(port_of(fd))));
    AS("nor its own address", BIND(MUST(socket(AF_INET, SOCK_DGRAM, 0)), at4(port_of(fd))));
}

PROBE(dual_stack) {
    if (family == AF_INET)
        return;
    int server = udp_at(any(0)), four = MUST(socket(AF_INET, SOCK_DGRAM, 0)), port = port_of(server);
    exchange("IPv4 client", four, server, at4(port));
    exchange("loopback client", MUST(socket(AF_INET, SOCK_DGRAM, 0)), server, loopback4(port));
    exchange("IPv6 client", udp(), server, at(port));
    exchange("mapped client", udp(), server, mapped(at4(port)));
    int fd = udp();
    TRY(CONNECT(fd, mapped(at4(port))));
    say_sockname("sockname", fd);
    say_peername("peername", fd);
    exchange("connected", fd, server, mapped(at4(port)));
    AS("then IPv6", CONNECT(fd, at(port)));
    say_sockname("sockname", fd);
    AS("disconnected", CONNECT(fd, unspec()));
    AS("then IPv6", CONNECT(fd, at(port)));
    say_sockname("sockname", fd);
    int bound = udp_at(mapped(at4(0)));
    say_sockname("bound to a mapped one", bound);
    exchange("it", MUST(socket(AF_INET, SOCK_DGRAM, 0)), bound, at4(port_of(bound)));
    AS("to IPv6", send_to(bound, "x", at(port)));
    int four_only = udp_at(at4(0));
    exchange("mapped to an IPv4 server", udp(), four_only, mapped(at4(port_of(four_only))));
}
