/* The abstract name of a connecting Unix socket says who is connected to whom: see switch/naming.py. */
#include "kernel.h"
#include <sys/random.h>

static const char hexadecimal[] = "0123456789abcdef";

/* The first part of a fresh name: the magic, and a salt, a serial number and the client's port in hexadecimal. No other
 * live name has its salt and serial: squatting on names in the host's namespace must not stop us. */
void write_head(char *text, int port) {
    static unsigned char salt[2];
    static int salted;
    static uint32_t serial;
    if (!salted) {
        salted = getrandom(salt, sizeof salt, 0) == sizeof salt;
    }
    serial++;
    const unsigned char head[] = {salt[0],
                                  salt[1],
                                  (unsigned char)(serial >> 24),
                                  (unsigned char)(serial >> 16),
                                  (unsigned char)(serial >> 8),
                                  (unsigned char)serial,
                                  (unsigned char)(port >> 8),
                                  (unsigned char)port};
    memcpy(text, NAME_MAGIC, MAGIC_SIZE);
    for (size_t i = 0; i < sizeof head; i++) {
        text[MAGIC_SIZE + 2 * i] = hexadecimal[head[i] >> 4];
        text[MAGIC_SIZE + 2 * i + 1] = hexadecimal[head[i] & 15];
    }
}

PyObject *k_name_head(ARGS) {
    int port;
    char text[HEAD_SIZE];
    (void)module;
    if (arity("name_head", nargs, 1) < 0 || as_int(args[0], &port) < 0) {
        return NULL;
    }
    write_head(text, port);
    return PyBytes_FromStringAndSize(text, sizeof text);
}

static int digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

/* Whether a sockaddr_un is such a name, and what it says. */
int read_name(const struct sockaddr_un *address, socklen_t size, struct connection_name *name) {
    if (size != offsetof(struct sockaddr_un, sun_path) + NAME_SIZE ||
        memcmp(address->sun_path, NAME_MAGIC, MAGIC_SIZE) != 0) {
        return 0;
    }
    const char *text = address->sun_path + MAGIC_SIZE;
    for (size_t i = 0; i < sizeof *name; i++) {
        int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
        if (high < 0 || low < 0) {
            return 0;
        }
        ((unsigned char *)name)[i] = (unsigned char)(high << 4 | low);
    }
    return 1;
}

/* A virtual address as an AF_INET or AF_INET6 socket shows it: an IPv4 one is mapped for the latter, an IPv6 one cannot
 * be said to the former. `port` is in network byte order. */
socklen_t shown_address(const unsigned char *ip, int size, uint16_t port, int family, union peer_address *address) {
    memset(address, 0, sizeof *address);
    if (family == AF_INET) {
        address->in.sin_family = AF_INET;
        address->in.sin_port = port;
        if (size == 4) {
            memcpy(&address->in.sin_addr, ip, 4);
        }
        return sizeof address->in;
    }
    address->in6.sin6_family = AF_INET6;
    address->in6.sin6_port = port;
    if (size == 4) {
        memset(address->in6.sin6_addr.s6_addr + 10, 0xff, 2);
        memcpy(address->in6.sin6_addr.s6_addr + 12, ip, 4);
    } else {
        memcpy(&address->in6.sin6_addr, ip, 16);
    }
    return sizeof address->in6;
}
