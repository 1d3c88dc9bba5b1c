/* short_load HOST PORT CLIENTS SECONDS, or short_load PATH 0 CLIENTS SECONDS: connect, one HTTP request, close; again.
 *
 * So many threads at a time. The latency is that of all of it. The server's answers have to have a Content-Length. */
#define _GNU_SOURCE
#include "workers.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const char REQUEST[] = "GET / HTTP/1.1\r\nHost: bench\r\nAccept: */*\r\n\r\n";
static struct sockaddr_storage server;
static socklen_t size;

/* Reads one response. 0, or -1. */
static int answer(int fd) {
    char buffer[4096] = "";
    size_t have = 0;
    for (;;) {
        ssize_t n = read(fd, buffer + have, sizeof buffer - 1 - have);
        if (n <= 0) {
            return -1;
        }
        buffer[have += (size_t)n] = 0;
        const char *end = strstr(buffer, "\r\n\r\n"), *length = strcasestr(buffer, "\r\ncontent-length:");
        if (end && length && have >= (size_t)(end + 4 - buffer) + strtoul(length + 17, NULL, 10)) {
            return strncmp(buffer, "HTTP/1.1 200", 12) ? -1 : 0;
        }
    }
}

static int once(void) {
    int fd = socket(server.ss_family, SOCK_STREAM, 0), on = 1, failed = 1;
    if (fd < 0) {
        return 1;
    }
    if (server.ss_family == AF_INET) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    if (connect(fd, (struct sockaddr *)&server, size) == 0) {
        failed = write(fd, REQUEST, sizeof REQUEST - 1) != sizeof REQUEST - 1 || answer(fd) != 0;
    }
    if (failed) {
        static _Atomic int told;
        if (!told++) {
            perror("a request failed");
        }
    }
    close(fd);
    return failed;
}

static void *work(void *self) {
    int64_t began;
    do {
        began = now_ns();
    } while (done(self, began, once()));
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: short_load HOST|PATH PORT CLIENTS SECONDS\n");
        return 2;
    }
    if (argv[1][0] == '/') {
        struct sockaddr_un *path = (struct sockaddr_un *)&server;
        path->sun_family = AF_UNIX;
        strncpy(path->sun_path, argv[1], sizeof path->sun_path - 1);
        size = sizeof *path;
    } else {
        struct sockaddr_in *ip = (struct sockaddr_in *)&server;
        ip->sin_family = AF_INET;
        ip->sin_port = htons((uint16_t)atoi(argv[2]));
        size = sizeof *ip;
        if (inet_pton(AF_INET, argv[1], &ip->sin_addr) != 1) {
            fprintf(stderr, "%s is no IPv4 address\n", argv[1]);
            return 2;
        }
    }
    return work_together(work, atoi(argv[3]), atof(argv[4]));
}
