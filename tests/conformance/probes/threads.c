/* Many threads and processes at once. */
#include "probe.h"

static int shared_listener, shared_port;
enum { THREADS = 8, EACH = 25 };

static void *connects(void *argument)
{
    long good = 0, id = (long)argument;
    for (long i = 0; i < EACH; i++) {
        long out = id * 1000 + i, in = 0;
        int fd = tcp();
        MUST(CONNECT(fd, at(shared_port)));
        send_all(fd, &out, sizeof out);
        recv_all(fd, &in, sizeof in);
        good += in == out;
        close(fd);
    }
    return (void *)good;
}

static void *serves(void *unused)
{
    (void)unused;
    long served = 0;
    for (;;) {
        int fd = accept(shared_listener, NULL, NULL);
        if (fd < 0)
            return (void *)served;
        long value;
        recv_all(fd, &value, sizeof value);
        send_all(fd, &value, sizeof value);
        close(fd);
        served++;
    }
}

PROBE(all_connect)
{
    pthread_t clients[THREADS], servers[3];
    shared_listener = listener();
    shared_port = port_of(shared_listener);
    for (int i = 0; i < 3; i++)
        pthread_create(&servers[i], NULL, serves, NULL);
    for (long i = 0; i < THREADS; i++)
        pthread_create(&clients[i], NULL, connects, (void *)i);
    long good = 0, served = 0;
    void *result;
    for (int i = 0; i < THREADS; i++) {
        pthread_join(clients[i], &result);
        good += (long)result;
    }
    shutdown(shared_listener, SHUT_RDWR);
    for (int i = 0; i < 3; i++) {
        pthread_join(servers[i], &result);
        served += (long)result;
    }
    say("good %ld, served %ld", good, served);
}

static void *makes_sockets(void *unused)
{
    (void)unused;
    long good = 0;
    for (int i = 0; i < 100; i++) {
        int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        addr_t a = any(0);
        good += fd >= 0 && bind(fd, &a.sa, a.len) == 0 && port_of(fd) > 0 && listen(fd, 1) == 0;
        close(fd);
    }
    return (void *)good;
}

PROBE(all_make_sockets)
{
    pthread_t threads[THREADS];
    long good = 0;
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, makes_sockets, NULL);
    for (int i = 0; i < THREADS; i++) {
        void *result;
        pthread_join(threads[i], &result);
        good += (long)result;
    }
    say("good %ld", good);
}

static void *sleeps_in_accept(void *unused)
{
    (void)unused;
    accept(shared_listener, NULL, NULL);
    return NULL;
}

PROBE(exit_while_threads_wait)
{
    pid_t child = CHILD(shared_listener = listener(); for (int i = 0; i < 8; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, sleeps_in_accept, NULL);
    } usleep(50000); exit(7));
    join("child", child);
    int fd = listener(), client = client_of(fd);
    talk("afterwards", client, MUST(accept(fd, NULL, NULL)));
}

static void *executes(void *unused)
{
    (void)unused;
    execl("/bin/sh", "sh", "-c", "exit 5", NULL);
    return NULL;
}

PROBE(exec_while_a_thread_waits)
{
    pid_t child = CHILD(pthread_t thread; shared_listener = listener();
                        pthread_create(&thread, NULL, sleeps_in_accept, NULL); usleep(50000);
                        pthread_create(&thread, NULL, executes, NULL); pause());
    join("child", child);
}

PROBE(leader_exits_first)
{
    /* the first thread of a process is gone: the others go on */
    shared_listener = listener();
    shared_port = port_of(shared_listener);
    pthread_t thread;
    pid_t child = CHILD(pthread_create(&thread, NULL, connects, (void *)1L); pthread_exit(NULL));
    for (int i = 0; i < EACH; i++) {
        int fd = MUST(accept(shared_listener, NULL, NULL));
        long value;
        recv_all(fd, &value, sizeof value);
        send_all(fd, &value, sizeof value);
        close(fd);
    }
    join("child", child);
    say("served");
}

PROBE(one_socket_two_threads)
{
    /* one reads, one writes, on both ends */
    int ends[2];
    connection(ends);
    pid_t child = CHILD(for (int i = 0; i < 1000; i++) {
        int value;
        recv_all(ends[1], &value, sizeof value);
        send_all(ends[1], &value, sizeof value);
    });
    pid_t writer = CHILD(for (int i = 0; i < 1000; i++) send_all(ends[0], &i, sizeof i));
    int right = 0;
    for (int i = 0; i < 1000; i++) {
        int value;
        recv_all(ends[0], &value, sizeof value);
        right += value == i;
    }
    say("in order %d", right);
    join("echo", child);
    join("writer", writer);
}
