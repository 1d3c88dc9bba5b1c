/* lookups HOST PORT NAME: obeys the lines of standard input, and answers each with a line of JSON (nanoseconds).
 *
 *   lookups COUNT WINDOW MIXED   so many questions for NAME's A record over UDP, WINDOW of them under way at a time;
 *                                MIXED: letters in upper and lower case as they come, as some resolvers send them
 *
 * {"took": in all}. An answer that is none ends the program. */
#include <ctype.h>

#include "bench.h"

enum { HEADER = 12, MOST = 512 };

static unsigned char question[HEADER + 256 + 4];
static size_t length;

static void write_question(const char *name) {
    static const unsigned char header[HEADER] = {0, 0, 1, 0, 0, 1}; /* RD; one question: RFC 1035 section 4.1.1 */
    memcpy(question, header, HEADER);
    length = HEADER;
    while (*name) {
        size_t label = strcspn(name, ".");
        question[length++] = (unsigned char)label;
        memcpy(question + length, name, label);
        length += label;
        name += label + (name[label] == '.');
    }
    memcpy(question + length, "\0\0\1\0\1", 5); /* the root; A, IN */
    length += 5;
}

static void ask(int fd, unsigned number, int mixed) {
    static uint32_t chance = 1;
    question[0] = (unsigned char)(number >> 8);
    question[1] = (unsigned char)number;
    for (size_t i = HEADER; mixed && i < length - 4; i++) {
        chance = chance * 1664525 + 1013904223;
        if (isalpha(question[i])) {
            question[i] = (unsigned char)(chance >> 31 ? toupper(question[i]) : tolower(question[i]));
        }
    }
    check(send(fd, question, length, 0) == (ssize_t)length, "send");
}

static void take(int fd) {
    unsigned char answer[MOST];
    ssize_t size = recv(fd, answer, sizeof answer, 0);
    check(size > 0, "recv");
    if (size < HEADER || (answer[3] & 0xF) != 0 || answer[7] == 0) {
        fprintf(stderr, "no address: rcode %d\n", size < HEADER ? -1 : answer[3] & 0xF);
        exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc != 4 || strlen(argv[3]) > 250) {
        return usage("lookups HOST PORT NAME");
    }
    struct sockaddr_in to = address_of(argv[1], argv[2]);
    struct timeval patience = {.tv_sec = 5};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    check(fd >= 0, "socket");
    check(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) == 0, "setsockopt");
    check(connect(fd, (struct sockaddr *)&to, sizeof to) == 0, "connect");
    write_question(argv[3]);
    char line[128];
    while (fgets(line, sizeof line, stdin)) {
        unsigned count, window;
        int mixed;
        if (sscanf(line, "lookups %u %u %d", &count, &window, &mixed) != 3) {
            return usage("lookups COUNT WINDOW MIXED");
        }
        int64_t start = now();
        for (unsigned sent = 0, taken = 0; taken < count; taken++) {
            while (sent < count && sent < taken + window) {
                ask(fd, sent++, mixed);
            }
            take(fd);
        }
        printf("{\"took\": %lld}\n", (long long)(now() - start));
        fflush(stdout);
    }
    return 0;
}
