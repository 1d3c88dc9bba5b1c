// names SERVER-NAME IPV4: what a C library resolves, and a page by name. Built with musl, static.
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int by_text(const void *one, const void *other) { return strcmp(one, other); }

static void host(const char *name) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *each;
    char texts[16][INET6_ADDRSTRLEN];
    int count = 0, error = getaddrinfo(name, NULL, &hints, &found);
    if (error) {
        printf("host %s\n", gai_strerror(error));
        return;
    }
    for (each = found; each && count < 16; each = each->ai_next)
        getnameinfo(each->ai_addr, each->ai_addrlen, texts[count++], INET6_ADDRSTRLEN, NULL, 0, NI_NUMERICHOST);
    freeaddrinfo(found);
    qsort(texts, count, sizeof *texts, by_text);
    for (int n = 0; n < count; n++)
        printf("%s%s", n ? "," : "host ", texts[n]);
    puts("");
}

static void ptr(const char *address) {
    struct sockaddr_in sin = {.sin_family = AF_INET};
    char name[NI_MAXHOST];
    inet_pton(AF_INET, address, &sin.sin_addr);
    int error = getnameinfo((void *)&sin, sizeof sin, name, sizeof name, NULL, 0, NI_NAMEREQD);
    printf("ptr %s\n", error ? gai_strerror(error) : name);
}

static void get(const char *name) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *each;
    int fd = -1;
    if (getaddrinfo(name, "80", &hints, &found))
        return;
    for (each = found; each; each = each->ai_next) {
        fd = socket(each->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (!connect(fd, each->ai_addr, each->ai_addrlen))
            break;
        close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    FILE *page = fd < 0 ? NULL : fdopen(fd, "r+");
    if (!page) {
        perror("connect");
        exit(1);
    }
    fprintf(page, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", name);
    fflush(page);
    char line[1024];
    while (fgets(line, sizeof line, page))
        continue;
    printf("get %s", line); // the last one
    fclose(page);
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    host(argv[1]);
    ptr(argv[2]);
    get(argv[1]);
    return 0;
}
