/* server HOST PORT WORKERS: blocking workers in accept(2) on one listening socket. Prints the port when it listens.
 *
 * The first byte of a connection says what it is for: 'u' is read to its end and answered with one byte, 'd' is written
 * to until the client closes, anything else is echoed. */
#include "bench.h"
#include <signal.h>
#include <sys/prctl.h>

static void serve(int fd) {
    static char buffer[2 * CHUNK];
    ssize_t n = read(fd, buffer, sizeof buffer);
    char purpose = buffer[0];
    if (purpose == DOWN) {
        while (write(fd, buffer, CHUNK) > 0) {
        }
    }
    for (; n > 0 && purpose != DOWN; n = read(fd, buffer, sizeof buffer)) {
        if (purpose != UP && write(fd, buffer, (size_t)n) != n) {
            break;
        }
    }
    if (purpose == UP && write(fd, "", 1) != 1) {
        perror("write");
    }
    close(fd);
}

static void work(int listener) {
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        check(fd >= 0, "accept");
        serve(fd);
    }
}

int main(int argc, char **argv) {
    if (argc != 4) {
        return usage("server HOST PORT WORKERS");
    }
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_in address = address_of(argv[1], argv[2]);
    socklen_t size = sizeof address;
    int listener = tcp_socket(), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (address.sin_addr.s_addr == INADDR_ANY) { /* every address of loopback, but no stranger's */
        check(setsockopt(listener, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) == 0, "SO_BINDTODEVICE");
    }
    check(bind(listener, (struct sockaddr *)&address, size) == 0, "bind");
    check(listen(listener, 1024) == 0, "listen");
    check(getsockname(listener, (struct sockaddr *)&address, &size) == 0, "getsockname");
    pid_t parent = getpid();
    for (int i = 1; i < atoi(argv[3]); i++) {
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (getppid() != parent) {
                return 0;
            }
            work(listener);
        }
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    work(listener);
}
