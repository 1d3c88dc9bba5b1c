/* getsockopt(2) and setsockopt(2). */
#include "probe.h"
#ifndef TCP_DEFER_ACCEPT
#define TCP_DEFER_ACCEPT 9
#endif
#define LINUX_SO_PEERGROUPS 59

/* A value for which any answer will do as long as it is positive. */
static const char *sign(int value) { return value > 0 ? "positive" : value == 0 ? "0" : name_of_errno(-value); }

struct option {
    int level, name;
    const char *label;
    int value; /* to set */
};
#define TCP_OPTION(name, value) {IPPROTO_TCP, name, #name, value}
#define SOCKET_OPTION(name, value) {SOL_SOCKET, name, #name, value}
#define IP_OPTION(name, value) {IPPROTO_IP, name, #name, value}
#define IPV6_OPTION(name, value) {IPPROTO_IPV6, name, #name, value}

static const struct option tcp_options[] = {
    TCP_OPTION(TCP_NODELAY, 1),       TCP_OPTION(TCP_NODELAY, 0),      TCP_OPTION(TCP_CORK, 1),
    TCP_OPTION(TCP_CORK, 0),          TCP_OPTION(TCP_KEEPIDLE, 42),    TCP_OPTION(TCP_KEEPIDLE, 0),
    TCP_OPTION(TCP_KEEPIDLE, 32768),  TCP_OPTION(TCP_KEEPINTVL, 43),   TCP_OPTION(TCP_KEEPINTVL, 0),
    TCP_OPTION(TCP_KEEPCNT, 5),       TCP_OPTION(TCP_KEEPCNT, 128),    TCP_OPTION(TCP_SYNCNT, 3),
    TCP_OPTION(TCP_SYNCNT, 0),        TCP_OPTION(TCP_SYNCNT, 128),     TCP_OPTION(TCP_LINGER2, 17),
    TCP_OPTION(TCP_LINGER2, -1),      TCP_OPTION(TCP_LINGER2, 0),      TCP_OPTION(TCP_USER_TIMEOUT, 30000),
    TCP_OPTION(TCP_USER_TIMEOUT, -1), TCP_OPTION(TCP_QUICKACK, 0),     TCP_OPTION(TCP_WINDOW_CLAMP, 0),
    TCP_OPTION(TCP_NOTSENT_LOWAT, 4096), TCP_OPTION(TCP_THIN_LINEAR_TIMEOUTS, 1), TCP_OPTION(TCP_THIN_DUPACK, 1),
    TCP_OPTION(TCP_INQ, 1),          TCP_OPTION(TCP_INQ, 2),
    TCP_OPTION(TCP_SAVE_SYN, 1),      TCP_OPTION(TCP_SAVE_SYN, 0),     TCP_OPTION(TCP_TX_DELAY, 0),
};

static const struct option socket_options[] = {
    SOCKET_OPTION(SO_REUSEADDR, 1), SOCKET_OPTION(SO_REUSEADDR, 0), SOCKET_OPTION(SO_REUSEADDR, 5),
    SOCKET_OPTION(SO_REUSEPORT, 1), SOCKET_OPTION(SO_REUSEPORT, 0), SOCKET_OPTION(SO_KEEPALIVE, 1),
    SOCKET_OPTION(SO_KEEPALIVE, 0), SOCKET_OPTION(SO_OOBINLINE, 1), SOCKET_OPTION(SO_DONTROUTE, 1),
    SOCKET_OPTION(SO_BROADCAST, 1), SOCKET_OPTION(SO_PRIORITY, 4),  SOCKET_OPTION(SO_RCVLOWAT, 10),
    SOCKET_OPTION(SO_RCVLOWAT, 0),  SOCKET_OPTION(SO_TIMESTAMP, 1), SOCKET_OPTION(SO_RCVBUF, 30000),
    SOCKET_OPTION(SO_SNDBUF, 30000), SOCKET_OPTION(SO_RCVBUF, 1),   SOCKET_OPTION(SO_SNDBUF, 1),
    SOCKET_OPTION(SO_INCOMING_CPU, 0), SOCKET_OPTION(SO_BUSY_POLL, 0), SOCKET_OPTION(SO_ZEROCOPY, 1),
    SOCKET_OPTION(SO_ZEROCOPY, 2),  SOCKET_OPTION(SO_MARK, 0),      SOCKET_OPTION(SO_NO_CHECK, 1),
    SOCKET_OPTION(SO_RXQ_OVFL, 1),  SOCKET_OPTION(SO_SELECT_ERR_QUEUE, 1), SOCKET_OPTION(SO_MAX_PACING_RATE, 1000000),
    SOCKET_OPTION(SO_LOCK_FILTER, 0),
};

static const struct option ip_options[] = {
    IP_OPTION(IP_TOS, 16),         IP_OPTION(IP_TOS, 0xb8),      IP_OPTION(IP_TTL, 33),
    IP_OPTION(IP_TTL, 0),          IP_OPTION(IP_TTL, 256),       IP_OPTION(IP_TTL, -1),
    IP_OPTION(IP_RECVTOS, 1),      IP_OPTION(IP_RECVTTL, 1),     IP_OPTION(IP_PKTINFO, 1),
    IP_OPTION(IP_FREEBIND, 1),     IP_OPTION(IP_MTU_DISCOVER, IP_PMTUDISC_DO), IP_OPTION(IP_MTU_DISCOVER, 99),
    IP_OPTION(IP_RECVERR, 1),      IP_OPTION(IP_BIND_ADDRESS_NO_PORT, 1),
    IP_OPTION(IP_MINTTL, 1),
};

static const struct option ipv6_options[] = {
    IPV6_OPTION(IPV6_V6ONLY, 1),        IPV6_OPTION(IPV6_V6ONLY, 0),       IPV6_OPTION(IPV6_TCLASS, 0x28),
    IPV6_OPTION(IPV6_TCLASS, 256),      IPV6_OPTION(IPV6_UNICAST_HOPS, 9), IPV6_OPTION(IPV6_UNICAST_HOPS, 256),
    IPV6_OPTION(IPV6_UNICAST_HOPS, -1), IPV6_OPTION(IPV6_RECVTCLASS, 1),   IPV6_OPTION(IPV6_RECVPKTINFO, 1),
    IPV6_OPTION(IPV6_RECVHOPLIMIT, 1),  IPV6_OPTION(IPV6_RECVERR, 1),      IPV6_OPTION(IPV6_MTU_DISCOVER, 1),
    IPV6_OPTION(IPV6_DONTFRAG, 1),      IPV6_OPTION(IPV6_AUTOFLOWLABEL, 1),
};

static void round_trip(int fd, const struct option *options, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct option *o = &options[i];
        int result = set(fd, o->level, o->name, o->value) < 0 ? errno : 0;
        int value = 0;
        socklen_t length = sizeof value;
        int got = getsockopt(fd, o->level, o->name, &value, &length) < 0 ? errno : 0;
        if (got)
            say("%s %d: %s, then %s", o->label, o->value, name_of_errno(result), name_of_errno(got));
        else
            say("%s %d: %s, then %d in %d bytes", o->label, o->value, name_of_errno(result), value, (int)length);
    }
}
#define ROUND_TRIP(fd, options) round_trip(fd, options, sizeof options / sizeof *options)

static void initial(int fd, const struct option *options, size_t count)
{
    const char *last = "";
    for (size_t i = 0; i < count; i++) {
        int value = 0;
        socklen_t length = sizeof value;
        if (strcmp(last, options[i].label) == 0)
            continue;
        last = options[i].label;
        if (options[i].level == SOL_SOCKET && (options[i].name == SO_RCVBUF || options[i].name == SO_SNDBUF))
            continue; /* buffers are the transport's own: see buffer_defaults */
        if (options[i].level == SOL_SOCKET && options[i].name == SO_INCOMING_CPU)
            continue; /* whichever it was */
        if (getsockopt(fd, options[i].level, options[i].name, &value, &length) < 0)
            say("%s: %s", last, name_of_errno(errno));
        else
            say("%s: %d in %d bytes", last, value, (int)length);
    }
}
#define INITIAL(fd, options) initial(fd, options, sizeof options / sizeof *options)

PROBE(initial_tcp) { INITIAL(tcp(), tcp_options); }
PROBE(initial_socket) { INITIAL(tcp(), socket_options); }
PROBE(initial_ip) { INITIAL(tcp(), ip_options); }
PROBE(initial_ipv6) { INITIAL(tcp(), ipv6_options); }
PROBE(fresh_tcp) { ROUND_TRIP(tcp(), tcp_options); }
PROBE(fresh_socket) { ROUND_TRIP(tcp(), socket_options); }
PROBE(fresh_ip) { ROUND_TRIP(tcp(), ip_options); }
PROBE(fresh_ipv6) { ROUND_TRIP(tcp(), ipv6_options); }
PROBE(listening_tcp) { ROUND_TRIP(listener(), tcp_options); }
PROBE(listening_socket) { ROUND_TRIP(listener(), socket_options); }
PROBE(listening_ip) { ROUND_TRIP(listener(), ip_options); }
PROBE(connected_tcp)
{
    int ends[2];
    connection(ends);
    say("client");
    ROUND_TRIP(ends[0], tcp_options);
    say("server");
    ROUND_TRIP(ends[1], tcp_options);
}
PROBE(connected_socket)
{
    int ends[2];
    connection(ends);
    say("client");
    ROUND_TRIP(ends[0], socket_options);
    say("server");
    ROUND_TRIP(ends[1], socket_options);
}
PROBE(connected_ip)
{
    int ends[2];
    connection(ends);
    say("client");
    ROUND_TRIP(ends[0], ip_options);
    say("server");
    ROUND_TRIP(ends[1], ip_options);
}
PROBE(connected_ipv6)
{
    int ends[2];
    connection(ends);
    say("client");
    ROUND_TRIP(ends[0], ipv6_options);
    say("server");
    ROUND_TRIP(ends[1], ipv6_options);
}

PROBE(buffer_defaults)
{
    int fd = tcp();
    say("rcvbuf %s, sndbuf %s", sign(get(fd, SOL_SOCKET, SO_RCVBUF)), sign(get(fd, SOL_SOCKET, SO_SNDBUF)));
}

PROBE(defer_accept)
{
    int fd = tcp();
    say("initially %d", get(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT));
    TRY(set(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, 1));
    say("then %s", sign(get(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT)));
    TRY(set(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, 0));
    say("then %d", get(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT));
    MUST(set(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, 5));
    MUST(BIND(fd, at(0)));
    MUST(listen(fd, 5));
    int client = client_of(fd);
    send_all(client, "x", 1);
    ASFD("accept", accept(fd, NULL, NULL));
}

PROBE(fastopen)
{
    int fd = tcp();
    say("initially %d", get(fd, IPPROTO_TCP, TCP_FASTOPEN));
    TRY(set(fd, IPPROTO_TCP, TCP_FASTOPEN, 16));
    say("then %d", get(fd, IPPROTO_TCP, TCP_FASTOPEN));
    MUST(BIND(fd, at(0)));
    MUST(listen(fd, 5));
    TRY(set(fd, IPPROTO_TCP, TCP_FASTOPEN, 7));
    say("then %d", get(fd, IPPROTO_TCP, TCP_FASTOPEN));
    TRY(set(client_of(fd), IPPROTO_TCP, TCP_FASTOPEN, 7));
    int client = tcp();
    TRY(set(client, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1));
    say("then %d", get(client, IPPROTO_TCP, TCP_FASTOPEN_CONNECT));
    TRY(set(client, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 2));
}

PROBE(maxseg)
{
    int fd = tcp(), ends[2];
    say("initially %d", get(fd, IPPROTO_TCP, TCP_MAXSEG));
    TRY(set(fd, IPPROTO_TCP, TCP_MAXSEG, 1200));
    say("then %d", get(fd, IPPROTO_TCP, TCP_MAXSEG));
    TRY(set(fd, IPPROTO_TCP, TCP_MAXSEG, 1));
    TRY(set(fd, IPPROTO_TCP, TCP_MAXSEG, 100000));
    MUST(BIND(fd, at(0)));
    MUST(listen(fd, 5));
    TRY(set(fd, IPPROTO_TCP, TCP_MAXSEG, 1000));
    connection(ends);
    say("connected: more than 500: %d %d", get(ends[0], IPPROTO_TCP, TCP_MAXSEG) > 500,
        get(ends[1], IPPROTO_TCP, TCP_MAXSEG) > 500);
}

PROBE(congestion)
{
    int fd = tcp();
    char name[64] = "", first[64] = "";
    socklen_t length = sizeof first;
    TRY(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, first, &length));
    say("%s in %d bytes", first, (int)length);
    TRY(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
    length = sizeof name;
    TRY(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length));
    say("%s in %d bytes", name, (int)length);
    TRY(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "nonesuch", 8));
    TRY(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "", 0));
    length = 3;
    memset(name, 'z', sizeof name);
    TRY(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length));
    say("%.4s in %d bytes", name, (int)length);
}

static void info(const char *label, int fd)
{
    union {
        struct tcp_info info;
        char raw[1024];
    } u;
    memset(&u, 0xee, sizeof u);
    socklen_t length = sizeof u;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &u, &length) < 0)
        say("%s: %s", label, name_of_errno(errno));
    else
        say("%s: state %d, length %d", label, u.info.tcpi_state, (int)length);
    length = 1;
    memset(&u, 0xee, sizeof u);
    int result = getsockopt(fd, IPPROTO_TCP, TCP_INFO, &u, &length);
    say("%s, one byte: %d, state %d, length %d, next untouched %d", label, result, u.info.tcpi_state, (int)length,
        (unsigned char)u.raw[1] == 0xee);
    length = sizeof u.info;
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &u, &length));
    say("%s, glibc's: length is glibc's: %d", label, length == sizeof u.info);
}

PROBE(info)
{
    int ends[2], fd = listener();
    info("fresh", tcp());
    info("listening", fd);
    connection(ends);
    info("client", ends[0]);
    info("server", ends[1]);
    union {
        struct tcp_info info;
        char raw[1024];
    } u;
    socklen_t length = sizeof u;
    MUST(getsockopt(ends[0], IPPROTO_TCP, TCP_INFO, &u, &length));
    say("plausible: mss %d, cwnd %d, rto %d, retransmits %d, unacked small %d", u.info.tcpi_snd_mss > 500,
        u.info.tcpi_snd_cwnd > 0, u.info.tcpi_rto > 0, u.info.tcpi_retransmits, u.info.tcpi_unacked < 10);
    shutdown(ends[0], SHUT_WR);
    settle("half closed", ends[1], POLLRDHUP, POLLRDHUP);
    info("the other is half closed", ends[1]);
}

PROBE(info_set) { TRY(set(tcp(), IPPROTO_TCP, TCP_INFO, 1)); }

PROBE(linger)
{
    int fd = tcp();
    struct linger l = {1, 5};
    socklen_t length = sizeof l;
    TRY(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l));
    memset(&l, 0, sizeof l);
    TRY(getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &length));
    say("%d %d in %d", l.l_onoff, l.l_linger, (int)length);
    TRY(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l - 1));
}

PROBE(timeouts)
{
    static const struct timeval values[] = {{1, 500000}, {0, 0}, {-1, 0}, {0, 1000000}, {0, -1}, {100000000, 0}};
    int fd = tcp();
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        for (int name = SO_RCVTIMEO; name <= SO_SNDTIMEO; name++) {
            struct timeval t = values[i], back = {9, 9};
            socklen_t length = sizeof back;
            int result = setsockopt(fd, SOL_SOCKET, name, &t, sizeof t) < 0 ? errno : 0;
            MUST(getsockopt(fd, SOL_SOCKET, name, &back, &length));
            say("%ld.%06ld: %s, then %ld.%06ld", (long)t.tv_sec, (long)t.tv_usec, name_of_errno(result),
                (long)back.tv_sec, (long)back.tv_usec);
        }
}

static void peercred(const char *label, int fd)
{
    struct ucred cred = {1, 2, 3};
    socklen_t length = sizeof cred;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &length) < 0)
        say("%s: %s", label, name_of_errno(errno));
    else
        say("%s: pid %d, uid %d, gid %d in %d bytes", label, cred.pid, (int)cred.uid, (int)cred.gid, (int)length);
}

/* What a TCP socket says to questions that only a Unix socket has an answer to. */
PROBE(unix_questions)
{
    int ends[2];
    char text[64];
    socklen_t length = sizeof text;
    connection(ends);
    peercred("fresh", tcp());
    peercred("client", ends[0]);
    peercred("server", ends[1]);
    peercred("listening", listener());
    TRY(getsockopt(ends[0], SOL_SOCKET, SO_PEERSEC, text, &length));
    length = sizeof text;
    TRY(getsockopt(ends[0], SOL_SOCKET, LINUX_SO_PEERGROUPS, text, &length));
    length = sizeof text;
    TRY(getsockopt(ends[0], SOL_SOCKET, SO_PEERNAME, text, &length));
    say("length %d", (int)length);
    length = sizeof text;
#ifdef SO_PEERPIDFD
    TRYFD(getsockopt(ends[0], SOL_SOCKET, SO_PEERPIDFD, text, &length));
#endif
    TRY(set(ends[0], SOL_SOCKET, SO_PASSCRED, 1));
    TRY(get(ends[0], SOL_SOCKET, SO_PASSCRED) == 1);
}

PROBE(original_destination)
{
    int ends[2];
    addr_t a = {.len = sizeof a.ss};
    connection(ends);
    int level = family == AF_INET ? SOL_IP : SOL_IPV6;
    int result = getsockopt(ends[1], level, 80, &a.ss, &a.len);
    say("redirected: %s", result < 0 && (errno == ENOPROTOOPT || errno == ENOENT) ? "no" : "yes");
}

PROBE(errors)
{
    int client = tcp();
    say("fresh %d", get(client, SOL_SOCKET, SO_ERROR));
    TRY(set(client, SOL_SOCKET, SO_ERROR, 1));
    TRY(set(client, SOL_SOCKET, SO_TYPE, 1));
    TRY(set(client, SOL_SOCKET, SO_DOMAIN, 1));
    TRY(set(client, SOL_SOCKET, SO_PROTOCOL, 1));
    TRY(set(client, SOL_SOCKET, SO_ACCEPTCONN, 1));
}

PROBE(unknown)
{
    int value, ends[2];
    static const int levels[] = {SOL_SOCKET, SOL_IP, SOL_IPV6, SOL_TCP, IPPROTO_UDP, 262, 284, 9999, -1};
    connection(ends);
    const int fds[] = {tcp(), ends[0], ends[1]};
    for (int f = 0; f < 3; f++)
        for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
            socklen_t length = sizeof value;
            int got = getsockopt(fds[f], levels[i], 9999, &value, &length) < 0 ? errno : 0;
            say("%d: level %d: get %s, set %s", f, levels[i], name_of_errno(got),
                name_of_errno(set(fds[f], levels[i], 9999, 1) < 0 ? errno : 0));
        }
}

PROBE(short_lengths)
{
    static const struct option options[] = {TCP_OPTION(TCP_NODELAY, 1), SOCKET_OPTION(SO_KEEPALIVE, 1), IP_OPTION(IP_TOS, 8),
                                            SOCKET_OPTION(SO_TYPE, 1), SOCKET_OPTION(SO_DOMAIN, 1), TCP_OPTION(TCP_KEEPIDLE, 9),
                                            SOCKET_OPTION(SO_RCVBUF, 9999), SOCKET_OPTION(SO_ERROR, 1)};
    static const int lengths[] = {0, 1, 2, 3, 4, 8, -1, INT32_MAX};
    for (size_t o = 0; o < sizeof options / sizeof *options; o++)
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            union {
                int value;
                unsigned char raw[16];
            } in = {.value = options[o].value}, out;
            int fd = tcp();
            memset(&out, 0xee, sizeof out);
            socklen_t length = lengths[i];
            int result = setsockopt(fd, options[o].level, options[o].name, &in, lengths[i]) < 0 ? errno : 0;
            int got = getsockopt(fd, options[o].level, options[o].name, &out, &length) < 0 ? errno : 0;
            if (options[o].name == SO_DOMAIN && !got && out.raw[0] == family)
                out.raw[0] = 0xdd;
            if (options[o].name == SO_RCVBUF && !result && lengths[i] < 4)
                memset(&out, 0xdd, 4);
            if (options[o].name == SO_RCVBUF && result)
                memset(&out, 0xdd, 4);
            say("%s %d: set %s, get %s, %02x %02x %02x %02x %02x in %d", options[o].label, lengths[i], name_of_errno(result),
                name_of_errno(got), out.raw[0], out.raw[1], out.raw[2], out.raw[3], out.raw[4], (int)length);
            close(fd);
        }
}

PROBE(bad_pointers)
{
    static const struct option options[] = {TCP_OPTION(TCP_NODELAY, 1), SOCKET_OPTION(SO_KEEPALIVE, 1), IP_OPTION(IP_TOS, 8),
                                            SOCKET_OPTION(SO_TYPE, 0), TCP_OPTION(TCP_KEEPIDLE, 9), TCP_OPTION(TCP_CONGESTION, 0)};
    int value;
    socklen_t length = sizeof value;
    for (size_t o = 0; o < sizeof options / sizeof *options; o++) {
        int fd = tcp();
        say("%s", options[o].label);
        TRY(setsockopt(fd, options[o].level, options[o].name, NULL, 4));
        TRY(setsockopt(fd, options[o].level, options[o].name, (void *)8, 4));
        TRY(getsockopt(fd, options[o].level, options[o].name, NULL, &length));
        TRY(getsockopt(fd, options[o].level, options[o].name, &value, NULL));
        TRY(getsockopt(fd, options[o].level, options[o].name, &value, (void *)8));
        close(fd);
    }
}

PROBE(bad_descriptors)
{
    int pipes[2], value = 1;
    socklen_t length = sizeof value;
    MUST(pipe(pipes));
    TRY(setsockopt(-1, IPPROTO_TCP, TCP_NODELAY, &value, sizeof value));
    TRY(getsockopt(999, IPPROTO_TCP, TCP_NODELAY, &value, &length));
    TRY(setsockopt(pipes[0], IPPROTO_TCP, TCP_NODELAY, &value, sizeof value));
    TRY(getsockopt(pipes[0], SOL_SOCKET, SO_DOMAIN, &value, &length));
    TRY(getsockopt(pipes[0], IPPROTO_TCP, TCP_NODELAY, &value, &length));
    TRY(getsockopt(pipes[0], IPPROTO_IP, IP_TOS, &value, &length));
}

PROBE(follow_the_socket)
{
    /* what is set through one descriptor is read through every other, before and after connecting, and in a child */
    int fd = tcp(), copy = MUST(dup(fd)), listening = listener();
    MUST(set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 99));
    say("copy: %d", get(copy, IPPROTO_TCP, TCP_KEEPIDLE));
    MUST(CONNECT(copy, at(port_of(listening))));
    close(fd);
    say("after connect: %d", get(copy, IPPROTO_TCP, TCP_KEEPIDLE));
    join("child", CHILD(say("child: %d", get(copy, IPPROTO_TCP, TCP_KEEPIDLE)); MUST(set(copy, IPPROTO_TCP, TCP_KEEPIDLE, 98))));
    say("set by the child: %d", get(copy, IPPROTO_TCP, TCP_KEEPIDLE));
}

PROBE(forgotten_with_the_socket)
{
    int fd = tcp(), number = fd;
    MUST(set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 99));
    MUST(set(fd, IPPROTO_TCP, TCP_NODELAY, 1));
    close(fd);
    fd = tcp();
    say("same number %d, idle %d, nodelay %d", fd == number, get(fd, IPPROTO_TCP, TCP_KEEPIDLE),
        get(fd, IPPROTO_TCP, TCP_NODELAY));
}

PROBE(set_after_accept)
{
    int ends[2];
    connection(ends);
    AS("client", set(ends[0], IPPROTO_TCP, TCP_NODELAY, 1));
    say("client %d, server %d", get(ends[0], IPPROTO_TCP, TCP_NODELAY), get(ends[1], IPPROTO_TCP, TCP_NODELAY));
    AS("server", set(ends[1], IPPROTO_TCP, TCP_KEEPIDLE, 50));
    say("client %d, server %d", get(ends[0], IPPROTO_TCP, TCP_KEEPIDLE), get(ends[1], IPPROTO_TCP, TCP_KEEPIDLE));
}

PROBE(bind_to_device)
{
    char name[32] = "x";
    socklen_t length = sizeof name;
    int fd = tcp();
    TRY(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &length));
    say("length %d", (int)length);
    TRY(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2));
    TRY(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "nonesuch0", 9));
}

PROBE(cookie_and_napi)
{
    uint64_t one = 0, two = 0;
    int value = -1, fd = tcp(), other = tcp();
    socklen_t length = sizeof one;
    TRY(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &one, &length));
    MUST(getsockopt(other, SOL_SOCKET, SO_COOKIE, &two, &length));
    say("set %d, different %d", one != 0, one != two);
    length = sizeof value;
    TRY(getsockopt(fd, SOL_SOCKET, SO_INCOMING_NAPI_ID, &value, &length));
    say("napi %d", value);
}

PROBE(ulp_and_repair)
{
    int fd = tcp();
    AS("TLS before a connection", setsockopt(fd, IPPROTO_TCP, TCP_ULP, "nonesuch", 8));
    say("repair %d", get(fd, IPPROTO_TCP, TCP_REPAIR));
    say("md5: %s", name_of_errno(setsockopt(fd, IPPROTO_TCP, TCP_MD5SIG, "x", 1) < 0 ? errno : 0));
}

PROBE(address_form)
{
    /* ipv6(7): to make an IPv4 socket of an IPv6 one that is connected to an IPv4 address */
    int ends[2], form = AF_INET;
    AS("fresh", setsockopt(tcp(), SOL_IPV6, IPV6_ADDRFORM, &form, sizeof form));
    connection(ends);
    AS("connected", setsockopt(ends[0], SOL_IPV6, IPV6_ADDRFORM, &form, sizeof form));
}
