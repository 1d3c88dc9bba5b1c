/* client HOST|PATH PORT SPREAD [http]: obeys the lines of standard input, and answers each with a line of JSON (nanoseconds).
 *
 *   connect N             N connections in turn: socket, connect, one round trip, close
 *   parallel CLIENTS N    as many processes at a time, N connections each
 *   rounds N              round trips on one connection
 *   upload MS             as much as can be written in so many milliseconds, and read by the server
 *   download MS           the other way round
 *
 * With `http` a connection begins with a request of HTTP, in connections and in rounds; it is echoed as anything else.
 *
 * Connections go to SPREAD addresses in turn, HOST and those after it: a closed TCP connection keeps its port for a
 * minute, and a client that has used up its ports measures how hard it is to find one. rounds, upload and download
 * also go to a Unix socket at PATH. */
#include "bench.h"
#include <sys/un.h>

static struct sockaddr_in server;
static struct sockaddr_un door = {.sun_family = AF_UNIX};
static uint32_t spread, next_one;
static char echoed[MESSAGE] = {ECHO}, requested[] = "GET /api/items HTTP/1.1\r\nHost: bench\r\nAccept: */*\r\n\r\n";
static char *opening = echoed;
static size_t opening_size = MESSAGE;

/* The first round trip of a connection. */
static void open_with(int fd) {
    char answer[sizeof requested];
    put(fd, opening, opening_size);
    get(fd, answer, opening_size);
}

static struct sockaddr_in *next_server(void) {
    static struct sockaddr_in address;
    address = server;
    address.sin_addr.s_addr = htonl(ntohl(server.sin_addr.s_addr) + next_one++ % spread);
    return &address;
}

static int dial_one(void) {
    if (!door.sun_path[0]) {
        return dial(next_server());
    }
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    check(fd >= 0, "socket");
    check(connect(fd, (const struct sockaddr *)&door, sizeof door) == 0, "connect");
    return fd;
}

static void connections(long count) {
    int64_t *made = list(count), *joined = list(count), *told = list(count), *total = list(count);
    for (long i = 0; i < count; i++) {
        struct sockaddr_in *to = next_server();
        int64_t start = now();
        int fd = tcp_socket();
        int64_t socketed = now();
        check(connect(fd, (struct sockaddr *)to, sizeof *to) == 0, "connect");
        int64_t connected = now();
        open_with(fd);
        int64_t answered = now();
        close(fd);
        made[i] = socketed - start;
        joined[i] = connected - socketed;
        told[i] = answered - connected;
        total[i] = now() - start;
    }
    printf("{");
    print_list("socket", made, count);
    printf(", ");
    print_list("connect", joined, count);
    printf(", ");
    print_list("exchange", told, count);
    printf(", ");
    print_list("total", total, count);
    printf("}\n");
}

static void parallel(int clients, long count) {
    int begin[2];
    check(pipe(begin) == 0, "pipe");
    for (int i = 0; i < clients; i++) {
        pid_t child = fork();
        check(child >= 0, "fork");
        if (child == 0) {
            char byte;
            close(begin[1]);
            next_one += (uint32_t)i;
            if (read(begin[0], &byte, 1) != 0) { /* the end: everybody starts at once */
                _exit(1);
            }
            for (long n = 0; n < count; n++) {
                int fd = dial(next_server());
                open_with(fd);
                close(fd);
            }
            _exit(0);
        }
    }
    int failed = 0, status;
    int64_t start = now();
    close(begin[0]);
    close(begin[1]);
    for (int i = 0; i < clients; i++) {
        check(wait(&status) > 0, "wait");
        failed |= status;
    }
    int64_t took = now() - start;
    if (failed) {
        fprintf(stderr, "a client failed\n");
        exit(1);
    }
    next_one += (uint32_t)clients * (uint32_t)count;
    printf("{\"took\": %lld}\n", (long long)took);
}

static void rounds(long count) {
    int64_t *taken = list(count);
    int fd = dial_one();
    open_with(fd);
    for (long i = 0; i < count; i++) {
        int64_t start = now();
        exchange(fd);
        taken[i] = now() - start;
    }
    close(fd);
    printf("{");
    print_list("round", taken, count);
    printf("}\n");
}

static void upload(long milliseconds) {
    static char data[CHUNK] = {UP};
    char byte;
    long long bytes = 0;
    int fd = dial_one();
    int64_t start = now();
    for (; now() - start < milliseconds * 1000000; bytes += CHUNK) {
        put(fd, data, CHUNK);
    }
    shutdown(fd, SHUT_WR);
    get(fd, &byte, 1);
    printf("{\"took\": %lld, \"bytes\": %lld}\n", (long long)(now() - start), bytes);
    close(fd);
}

static void download(long milliseconds) {
    static char data[2 * CHUNK];
    char request = DOWN;
    long long bytes = 0;
    int fd = dial_one();
    int64_t start = now();
    put(fd, &request, 1);
    while (now() - start < milliseconds * 1000000) {
        ssize_t n = read(fd, data, sizeof data);
        check(n > 0, "read");
        bytes += n;
    }
    printf("{\"took\": %lld, \"bytes\": %lld}\n", (long long)(now() - start), bytes);
    close(fd);
}

int main(int argc, char **argv) {
    char line[256];
    long one, two;
    if (argc < 4 || argc > 5) {
        return usage("client HOST|PATH PORT SPREAD [http]");
    }
    if (argc == 5) {
        opening = requested;
        opening_size = sizeof requested - 1;
    }
    if (argv[1][0] == '/') {
        strncpy(door.sun_path, argv[1], sizeof door.sun_path - 1);
    } else {
        server = address_of(argv[1], argv[2]);
    }
    spread = (uint32_t)atoi(argv[3]);
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (sscanf(line, "connect %ld", &one) == 1) {
            connections(one);
        } else if (sscanf(line, "parallel %ld %ld", &one, &two) == 2) {
            parallel((int)one, two);
        } else if (sscanf(line, "rounds %ld", &one) == 1) {
            rounds(one);
        } else if (sscanf(line, "upload %ld", &one) == 1) {
            upload(one);
        } else if (sscanf(line, "download %ld", &one) == 1) {
            download(one);
        } else {
            fprintf(stderr, "no such command: %s", line);
            return 2;
        }
        fflush(stdout);
    }
    return 0;
}
