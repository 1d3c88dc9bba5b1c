/* named NAME PORT: obeys lines `first N`, each with N times getaddrinfo, socket, connect, one request and its answer,
 * close; and answers with a line of JSON (nanoseconds): of the lookup, and of all of it. */
#include "bench.h"
#include <netdb.h>

static void once(const char *name, const char *port, int64_t *lookup, int64_t *total) {
    const struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;
    int64_t start = now();
    int error = getaddrinfo(name, port, &hints, &found);
    if (error) {
        fprintf(stderr, "%s: %s\n", name, gai_strerror(error));
        exit(1);
    }
    *lookup = now() - start;
    int fd = dial((const struct sockaddr_in *)found->ai_addr);
    exchange(fd);
    close(fd);
    *total = now() - start;
    freeaddrinfo(found);
}

int main(int argc, char **argv) {
    char line[256];
    long count;
    if (argc != 3) {
        return usage("named NAME PORT");
    }
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (sscanf(line, "first %ld", &count) != 1) {
            fprintf(stderr, "no such command: %s", line);
            return 2;
        }
        int64_t *lookup = list(count), *total = list(count);
        for (long i = 0; i < count; i++) {
            once(argv[1], argv[2], &lookup[i], &total[i]);
        }
        printf("{");
        print_list("lookup", lookup, count);
        printf(", ");
        print_list("total", total, count);
        printf("}\n");
        fflush(stdout);
    }
    return 0;
}
