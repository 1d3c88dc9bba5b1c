/* System calls that wait, and signals that come meanwhile. */
#include "probe.h"

static volatile int handled;
static void count(int number)
{
    (void)number;
    handled++;
}
static void counting(int number, int flags)
{
    struct sigaction action = {.sa_handler = count, .sa_flags = flags};
    MUST(sigaction(number, &action, NULL));
}

PROBE(accept_interrupted)
{
    int fd = listener();
    counting(SIGALRM, 0);
    alarm_in(100, 0);
    TRY(accept(fd, NULL, NULL));
    say("handled: %d", handled);
    client_of(fd);
    ASFD("afterwards", accept(fd, NULL, NULL));
}

PROBE(accept_restarted)
{
    int fd = listener(), port = port_of(fd), go[2];
    MUST(pipe(go));
    counting(SIGALRM, SA_RESTART);
    pid_t child = CHILD(char c; MUST(read(go[0], &c, 1)); MUST(CONNECT(tcp(), at(port))));
    struct itimerval timer = {{0, 20000}, {0, 20000}};
    MUST(setitimer(ITIMER_REAL, &timer, NULL));
    pid_t watcher = CHILD(usleep(300000); MUST(write(go[1], "x", 1)));
    ASFD("accept", accept(fd, NULL, NULL));
    alarm_in(0, 0);
    say("handled more than 5: %d", handled > 5);
    join("client", child);
    join("watcher", watcher);
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    TRY(accept(fd, NULL, NULL));
}

PROBE(accept_interrupted_often)
{
    /* a program that tries again after each EINTR gets its connection, once */
    int fd = listener(), port = port_of(fd), interrupted = 0, served;
    counting(SIGALRM, 0);
    pid_t child = CHILD(usleep(200000); int c = tcp(); MUST(CONNECT(c, at(port))); char byte; recv_all(c, &byte, 1));
    alarm_in(5, 5);
    while ((served = accept(fd, NULL, NULL)) < 0 && errno == EINTR)
        interrupted++;
    alarm_in(0, 0);
    ASFD("accept", served);
    say("interrupted more than 5 times: %d", interrupted > 5);
    send_all(served, "x", 1);
    join("client", child);
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    TRY(accept(fd, NULL, NULL));
}

PROBE(accept_with_timeout_interrupted)
{
    int fd = listener();
    struct timeval t = {3, 0};
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    counting(SIGALRM, 0);
    alarm_in(100, 0);
    TRY(accept(fd, NULL, NULL));
}

/* signal(7): with a time-out set on the socket, SA_RESTART does not restart. */
PROBE(accept_with_timeout_not_restarted)
{
    int fd = listener();
    struct timeval t = {1, 0};
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    counting(SIGALRM, SA_RESTART);
    alarm_in(100, 0);
    TRY(accept(fd, NULL, NULL));
}

PROBE(accept_ignored_signal)
{
    int fd = listener(), port = port_of(fd), parent = getpid();
    signal(SIGUSR1, SIG_IGN);
    pid_t child = CHILD(until_asleep(parent, parent); kill(parent, SIGUSR1); kill(parent, SIGUSR1);
                        until_asleep(parent, parent); MUST(CONNECT(tcp(), at(port))));
    ASFD("accept", accept(fd, NULL, NULL));
    join("client", child);
}

PROBE(accept_killed)
{
    int fd = listener();
    pid_t child = CHILD(accept(fd, NULL, NULL));
    until_asleep(child, child);
    kill(child, SIGTERM);
    join("child", child);
    int client = client_of(fd);
    talk("the next", client, MUST(accept(fd, NULL, NULL)));
}

PROBE(accept_stopped_and_continued)
{
    int fd = listener();
    pid_t child = CHILD(int one = accept(fd, NULL, NULL); ASFD("child's accept", one); send_all(one, "x", 1));
    until_asleep(child, child);
    kill(child, SIGSTOP);
    int status;
    MUST(waitpid(child, &status, WUNTRACED));
    say("stopped: %d", WIFSTOPPED(status));
    int client = client_of(fd);
    kill(child, SIGCONT);
    char c;
    recv_all(client, &c, 1);
    join("child", child);
}

PROBE(connect_interrupted)
{
    int fd = full_listener(), client = tcp();
    addr_t to = at(port_of(fd));
    counting(SIGALRM, 0);
    alarm_in(100, 0);
    TRY(connect(client, &to.sa, to.len));
    EVENTS("in progress", client, POLLOUT, 0);
    int served = accept_from(fd, client);
    settle("in the end", client, POLLOUT, POLLOUT | POLLIN);
    say("SO_ERROR: %d", get(client, SOL_SOCKET, SO_ERROR));
    talk("talk", client, served);
}

PROBE(connect_interrupted_then_again)
{
    /* connect(2) again after EINTR waits for the connection that is being made */
    int fd = full_listener(), client = tcp();
    addr_t to = at(port_of(fd));
    counting(SIGALRM, 0);
    alarm_in(100, 0);
    TRY(connect(client, &to.sa, to.len));
    pid_t server = CHILD(int one = accept_from(fd, client); send_all(one, "x", 1));
    int result = connect(client, &to.sa, to.len);
    say("again: %s", result == 0 || errno == EISCONN || errno == EALREADY ? "goes on" : name_of_errno(errno));
    settle("in the end", client, POLLOUT, POLLOUT);
    char c;
    recv_all(client, &c, 1);
    join("server", server);
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    TRY(accept(fd, NULL, NULL));
}

PROBE(connect_restarted)
{
    int fd = full_listener(), client = tcp();
    counting(SIGALRM, SA_RESTART);
    alarm_in(20, 20);
    pid_t server = CHILD(usleep(200000); for (;;) send_all(MUST(accept(fd, NULL, NULL)), "x", 1));
    int result = CONNECT(client, at(port_of(fd)));
    alarm_in(0, 0);
    AS("connect", result);
    say("handled more than 3: %d", handled > 3);
    char c;
    recv_all(client, &c, 1);
    say("served: %c", c);
    kill(server, SIGKILL);
}

PROBE(connect_killed)
{
    int fd = full_listener(), next = tcp_nonblocking();
    pid_t child = CHILD(CONNECT(tcp(), at(port_of(fd))));
    until_asleep(child, child);
    kill(child, SIGKILL);
    join("child", child);
    AS("the next", CONNECT(next, at(port_of(fd))));
    talk("talk", next, accept_from(fd, next));
}

/* Go's runtime sends SIGURG (SA_RESTART) to threads all the time. */
static volatile int stop_storm;
static pthread_t target;
static void *storm(void *unused)
{
    (void)unused;
    while (!stop_storm) {
        pthread_kill(target, SIGURG);
        usleep(100);
    }
    return NULL;
}

PROBE(connections_in_a_storm)
{
    enum { COUNT = 200 };
    int fd = listener(), good = 0;
    pthread_t thread;
    counting(SIGURG, SA_RESTART);
    target = pthread_self();
    pthread_create(&thread, NULL, storm, NULL);
    for (int i = 0; i < COUNT; i++) {
        int client = tcp();
        MUST(CONNECT(client, at(port_of(fd))));
        int served = MUST(accept(fd, NULL, NULL));
        char a = (char)i, b = 0;
        send_all(client, &a, 1);
        recv_all(served, &b, 1);
        good += a == b;
        close(client);
        close(served);
    }
    stop_storm = 1;
    pthread_join(thread, NULL);
    say("good: %d", good);
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    TRY(accept(fd, NULL, NULL));
}

static pthread_t begin_storm(void)
{
    pthread_t thread;
    counting(SIGURG, SA_RESTART);
    target = pthread_self();
    pthread_create(&thread, NULL, storm, NULL);
    return thread;
}

static void end_storm(pthread_t thread)
{
    stop_storm = 1;
    pthread_join(thread, NULL);
}

/* What was done must not be done again, or refused, when the answer was lost to a signal and the call is restarted. */
PROBE(binds_in_a_storm)
{
    int good = 0, listening = 0, right = 0;
    pthread_t thread = begin_storm();
    for (int i = 0; i < 300; i++) {
        int fd = tcp();
        good += BIND(fd, at(0)) == 0;
        listening += listen(fd, 5) == 0;
        right += port_of(fd) > 0;
        close(fd);
    }
    end_storm(thread);
    say("bound %d, listening %d, named %d", good, listening, right);
}

PROBE(refusals_in_a_storm)
{
    /* without blocking it may be told by the restarted call itself, or by SO_ERROR */
    int told = 0, blocking = 0, port = unused_port();
    pthread_t thread = begin_storm();
    for (int i = 0; i < 100; i++) {
        int fd = tcp_nonblocking(), other = tcp();
        bool at_once = CONNECT(fd, at(port)) < 0 && errno == ECONNREFUSED;
        poll_one(fd, POLLOUT, 4000);
        told += at_once || get(fd, SOL_SOCKET, SO_ERROR) == ECONNREFUSED;
        blocking += CONNECT(other, at(port)) < 0 && errno == ECONNREFUSED;
        close(fd);
        close(other);
    }
    end_storm(thread);
    say("told %d, told when blocking %d", told, blocking);
}

PROBE(fast_opens_in_a_storm)
{
    int fd = listener(), good = 0;
    addr_t to = at(port_of(fd));
    pthread_t thread = begin_storm();
    for (int i = 0; i < 100; i++) {
        int client = tcp(), value = -1;
        good += sendto(client, &i, sizeof i, MSG_FASTOPEN | MSG_NOSIGNAL, &to.sa, to.len) == sizeof i;
        int served = MUST(accept(fd, NULL, NULL));
        close(client);
        recv_all(served, &value, sizeof value);
        good += value == i && recv(served, &value, 1, 0) == 0;
        close(served);
    }
    end_storm(thread);
    say("sent once and received once %d", good);
}

static int storm_listener;
static void *serve(void *unused)
{
    (void)unused;
    long served = 0;
    for (;;) {
        int one = accept(storm_listener, NULL, NULL);
        char c;
        if (one < 0)
            die("accept");
        recv_all(one, &c, 1);
        send_all(one, &c, 1);
        close(one);
        served++;
        if (c == 'q')
            return (void *)served;
    }
}

PROBE(waiting_accept_in_a_storm)
{
    enum { COUNT = 100 };
    pthread_t server, thread;
    storm_listener = listener();
    counting(SIGURG, SA_RESTART);
    pthread_create(&server, NULL, serve, NULL);
    target = server;
    pthread_create(&thread, NULL, storm, NULL);
    for (int i = 1; i <= COUNT; i++) {
        int client = client_of(storm_listener);
        char c = i == COUNT ? 'q' : 'c';
        send_all(client, &c, 1);
        recv_all(client, &c, 1);
        close(client);
        usleep(1000);
    }
    /* the server has returned: only then may its thread id go out of use */
    stop_storm = 1;
    pthread_join(thread, NULL);
    void *served;
    pthread_join(server, &served);
    say("served: %ld", (long)served);
}

PROBE(socket_in_a_storm)
{
    pthread_t thread;
    counting(SIGURG, SA_RESTART);
    target = pthread_self();
    pthread_create(&thread, NULL, storm, NULL);
    int highest = 0;
    for (int i = 0; i < 1000; i++) {
        int fd = tcp();
        MUST(set(fd, IPPROTO_TCP, TCP_NODELAY, 1));
        if (get(fd, IPPROTO_TCP, TCP_NODELAY) != 1)
            die("TCP_NODELAY");
        highest = fd > highest ? fd : highest;
        close(fd);
    }
    stop_storm = 1;
    pthread_join(thread, NULL);
    say("descriptors leaked: %d", highest > 10);
}

PROBE(sigpipe)
{
    int ends[2];
    connection(ends);
    close(ends[1]);
    settle("closed", ends[0], POLLRDHUP, POLLRDHUP);
    pid_t child = CHILD(for (int i = 0; i < 100; i++) {
        if (write(ends[0], "x", 1) < 0)
            die("write");
        usleep(1000);
    });
    join("writer", child);
    int result = 0;
    for (int i = 0; i < 100 && result >= 0; i++) {
        result = send(ends[0], "x", 1, MSG_NOSIGNAL);
        usleep(1000);
    }
    AS("MSG_NOSIGNAL", result);
    signal(SIGPIPE, SIG_IGN);
    AS("ignored", write(ends[0], "x", 1));
}

PROBE(sigio)
{
    int fd = listener();
    sigset_t set;
    siginfo_t info;
    sigemptyset(&set);
    sigaddset(&set, SIGIO);
    sigprocmask(SIG_BLOCK, &set, NULL);
    AS("F_SETOWN", fcntl(fd, F_SETOWN, getpid()));
    say("F_GETOWN is me: %d", fcntl(fd, F_GETOWN) == getpid());
    AS("O_ASYNC", fcntl(fd, F_SETFL, O_ASYNC | O_NONBLOCK));
    client_of(fd);
    struct timespec limit = {4, 0};
    say("SIGIO came: %d", sigtimedwait(&set, &info, &limit) == SIGIO);
    ASFD("accept", accept(fd, NULL, NULL));
}
