/* IPv6 sockets that speak IPv4, and the two families side by side. "self4" is the app's IPv4 address. */
#include "probe.h"

static int v6(void) { return MUST(socket(AF_INET6, SOCK_STREAM, 0)); }
static int v4(void) { return MUST(socket(AF_INET, SOCK_STREAM, 0)); }
static addr_t any6(int port) { return parse("::", port); }

static void served_from(const char *label, int fd)
{
    addr_t from = {.len = sizeof from.ss};
    int one = MUST(accept(fd, &from.sa, &from.len));
    say_addr(label, &from);
    say_sockname("  its sockname", one);
    say_peername("  its peername", one);
    close(one);
}

PROBE(wildcard_serves_both)
{
    int fd = listener_at(any6(0), 5), port = port_of(fd), client = v4();
    AS("IPv4 to self4", CONNECT(client, at4(port)));
    served_from("seen", fd);
    say_sockname("client", client);
    say_peername("client", client);
    AS("IPv4 to loopback", CONNECT(v4(), loopback4(port)));
    served_from("seen", fd);
    AS("IPv4 to any", CONNECT(v4(), any4(port)));
    served_from("seen", fd);
    AS("IPv6 to ::1", CONNECT(v6(), parse("::1", port)));
    served_from("seen", fd);
    AS("IPv6 to mapped self4", CONNECT(v6(), mapped(at4(port))));
    served_from("seen", fd);
    if (family == AF_INET6) {
        AS("IPv6 to self", CONNECT(v6(), at(port)));
        served_from("seen", fd);
    }
}

PROBE(only_ipv6)
{
    int fd = v6();
    TRY(set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    MUST(BIND(fd, any6(0)));
    MUST(listen(fd, 5));
    int port = port_of(fd);
    AS("IPv4", CONNECT(v4(), at4(port)));
    AS("mapped", CONNECT(v6(), mapped(at4(port))));
    AS("IPv6", CONNECT(v6(), parse("::1", port)));
    AS("set late", set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0));
}

PROBE(mapped_client)
{
    int fd = listener_at(at4(0), 5), client = v6();
    AS("connect", CONNECT(client, mapped(at4(port_of(fd)))));
    say_sockname("client", client);
    say_peername("client", client);
    served_from("seen", fd);
    say("domain is INET6: %d", get(client, SOL_SOCKET, SO_DOMAIN) == AF_INET6);
}

PROBE(mapped_client_refused)
{
    int client = v6();
    AS("connect", CONNECT(client, mapped(at4(unused_port()))));
}

PROBE(mapped_bind)
{
    int fd = v6();
    AS("bind", BIND(fd, mapped(at4(0))));
    say_sockname("name", fd);
    MUST(listen(fd, 5));
    AS("IPv4", CONNECT(v4(), at4(port_of(fd))));
    served_from("seen", fd);
    AS("IPv6", CONNECT(v6(), parse("::1", port_of(fd))));
    int only = v6();
    MUST(set(only, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    AS("bind with V6ONLY", BIND(only, mapped(at4(0))));
    AS("connect with V6ONLY", CONNECT(only, mapped(at4(port_of(fd)))));
}

PROBE(mapped_any)
{
    int fd = v6();
    AS("bind", BIND(fd, mapped(any4(0))));
    say_sockname("name", fd);
    MUST(listen(fd, 5));
    AS("IPv4", CONNECT(v4(), at4(port_of(fd))));
    served_from("seen", fd);
    AS("IPv6", CONNECT(v6(), parse("::1", port_of(fd))));
    int client = v6();
    AS("mapped any", CONNECT(client, mapped(any4(port_of(fd)))));
    say_peername("peer", client);
}

PROBE(same_port)
{
    int six = v6(), four = v4();
    MUST(BIND(six, any6(0)));
    AS("IPv4 any beside dual ::", BIND(four, any4(port_of(six))));
    close(six);
    close(four);
    six = v6();
    four = v4();
    MUST(set(six, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    MUST(BIND(six, any6(0)));
    AS("IPv4 any beside IPv6-only ::", BIND(four, any4(port_of(six))));
    MUST(listen(six, 5));
    AS("listen", listen(four, 5));
    AS("IPv4", CONNECT(v4(), at4(port_of(six))));
    served_from("the IPv4 one", four);
    AS("IPv6", CONNECT(v6(), parse("::1", port_of(six))));
    served_from("the IPv6 one", six);
}

PROBE(ipv4_first)
{
    int six = v6(), four = v4();
    MUST(BIND(four, any4(0)));
    AS("dual :: beside IPv4 any", BIND(six, any6(port_of(four))));
    int other = v6();
    MUST(set(other, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    AS("IPv6-only ::", BIND(other, any6(port_of(four))));
    int specific = v6();
    AS("::1", BIND(specific, parse("::1", port_of(four))));
}

PROBE(listen_without_bind)
{
    int fd = v6();
    TRY(listen(fd, 5));
    say_sockname("name", fd);
    AS("IPv4", CONNECT(v4(), at4(port_of(fd))));
    served_from("seen", fd);
}

PROBE(to_any)
{
    int fd = listener_at(any6(0), 5), client = v6();
    AS("connect", CONNECT(client, any6(port_of(fd))));
    say_peername("peer", client);
    served_from("seen", fd);
}

PROBE(to_any_of_an_ipv4_listener)
{
    int fd = listener_at(any4(0), 5);
    AS("connect to ::", CONNECT(v6(), any6(port_of(fd))));
    AS("connect to ::1", CONNECT(v6(), parse("::1", port_of(fd))));
}

PROBE(bound_mapped_client)
{
    int fd = listener_at(at4(0), 5), client = v6();
    MUST(BIND(client, any6(0)));
    AS("connect", CONNECT(client, mapped(at4(port_of(fd)))));
    say_sockname("client", client);
    served_from("seen", fd);
    int native = v6();
    MUST(BIND(native, parse("::1", 0)));
    AS("a native bind does not reach mapped", CONNECT(native, mapped(at4(port_of(fd)))));
}

PROBE(nonblocking_mapped)
{
    int fd = listener_at(any6(0), 5), client = MUST(socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0));
    AS("connect", CONNECT(client, mapped(at4(port_of(fd)))));
    settle("poll", client, POLLOUT, POLLOUT | POLLIN);
    say_peername("peer", client);
    served_from("seen", fd);
}

PROBE(options_of_both)
{
    int fd = v6();
    TRY(set(fd, IPPROTO_IP, IP_TOS, 16));
    TRY(get(fd, IPPROTO_IP, IP_TOS));
    TRY(set(fd, IPPROTO_IPV6, IPV6_TCLASS, 32));
    TRY(get(fd, IPPROTO_IPV6, IPV6_TCLASS));
    int four = v4();
    AS("IPv6 option on IPv4", set(four, IPPROTO_IPV6, IPV6_TCLASS, 32));
    AS("V6ONLY on IPv4", set(four, IPPROTO_IPV6, IPV6_V6ONLY, 1));
}

PROBE(scope_and_flow)
{
    if (family != AF_INET6)
        return;
    int fd = listener(), client = v6();
    addr_t to = at(port_of(fd));
    to.in6.sin6_scope_id = 1;
    AS("with a scope", connect(client, &to.sa, to.len));
    say("scope %d", ({ addr_t p = peername(client); (int)p.in6.sin6_scope_id; }));
    client = v6();
    to.in6.sin6_scope_id = 0;
    to.in6.sin6_flowinfo = htonl(5);
    AS("with a flow label", connect(client, &to.sa, to.len));
    AS("24 bytes are enough", connect(v6(), &to.sa, 24));
}
