/* What the probes of UDP share. */
#ifndef PROBE_UDP_H
#define PROBE_UDP_H
#include "probe.h"

__attribute__((unused)) static int udp(void) { return MUST(socket(family, SOCK_DGRAM, 0)); }

__attribute__((unused)) static int udp_at(addr_t where) {
    int fd = MUST(socket(where.sa.sa_family, SOCK_DGRAM, 0));
    MUST(bind(fd, &where.sa, where.len));
    return fd;
}

__attribute__((unused)) static long send_to(int fd, const char *text, addr_t to) {
    return sendto(fd, text, strlen(text), 0, &to.sa, to.len);
}

/* Wait until something is there, and take it: "label: 'text' from self". Returns where it came from. */
__attribute__((unused)) static addr_t say_received(const char *label, int fd) {
    char text[2048];
    addr_t from = {.len = sizeof from.ss};
    poll_one(fd, POLLIN, 4000);
    long n = recvfrom(fd, text, sizeof text - 1, MSG_DONTWAIT, &from.sa, &from.len);
    if (n < 0) {
        say("%s: %s", label, name_of_errno(errno));
        from.len = 0;
    } else {
        text[n] = 0;
        say("%s: '%s' from %s, length %d", label, text, role(&from), (int)from.len);
    }
    return from;
}

/* A datagram each way: `server` is bound, `client` knows it by its address. */
__attribute__((unused)) static void exchange(const char *label, int client, int server, addr_t to) {
    AS(label, send_to(client, "ask", to));
    addr_t from = say_received("  asked", server);
    if (from.len) {
        AS("  answer", send_to(server, "answer", from));
        say_received("  answered", client);
    }
}

/* A UDP port that was free a moment ago. */
__attribute__((unused)) static int unused_udp_port(void) {
    int fd = udp_at(any(0)), port = port_of(fd);
    close(fd);
    return port;
}
#endif
