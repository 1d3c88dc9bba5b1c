/* memcached_load HOST PORT CONNECTIONS SECONDS, or memcached_load PATH 0 CONNECTIONS SECONDS: nine gets, one set, again.
 *
 * With libmemcached, a connection for each thread; values of 100 bytes. */
#include "workers.h"
#include <libmemcached/memcached.h>

enum { KEYS = 100, VALUE = 100 };

static const char *host;
static int port;

static memcached_st *connection(void) {
    memcached_st *one = memcached_create(NULL);
    memcached_behavior_set(one, MEMCACHED_BEHAVIOR_TCP_NODELAY, 1);
    if (host[0] == '/') {
        memcached_server_add_unix_socket(one, host);
    } else {
        memcached_server_add(one, host, (in_port_t)port);
    }
    return one;
}

static int request(memcached_st *to, size_t number) {
    char key[16], value[VALUE];
    size_t length, size = (size_t)snprintf(key, sizeof key, "key-%zu", number / 10 % KEYS);
    uint32_t flags;
    memcached_return_t result;
    memset(value, 'x', sizeof value);
    if (number % 10 == 0) {
        result = memcached_set(to, key, size, value, sizeof value, 0, 0);
    } else {
        free(memcached_get(to, key, size, &length, &flags, &result));
    }
    if (result != MEMCACHED_SUCCESS) {
        fprintf(stderr, "%s\n", memcached_last_error_message(to));
    }
    return result != MEMCACHED_SUCCESS;
}

static void *work(void *self) {
    memcached_st *to = connection();
    int64_t began;
    size_t number = 0;
    do {
        began = now_ns();
    } while (done(self, began, request(to, number++)));
    memcached_free(to);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: memcached_load HOST|PATH PORT CONNECTIONS SECONDS\n");
        return 2;
    }
    host = argv[1];
    port = atoi(argv[2]);
    return work_together(work, atoi(argv[3]), atof(argv[4]));
}
