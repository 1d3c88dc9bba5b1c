/* One socket, many descriptors: dup, fork, exec, SCM_RIGHTS, before and after it is connected or listens. */
#include "probe.h"

PROBE(dup_before_connect)
{
    int fd = listener(), client = tcp(), copy = MUST(dup(client)), third = MUST(fcntl(client, F_DUPFD_CLOEXEC, 50));
    AS("connect", CONNECT(client, at(port_of(fd))));
    int served = MUST(accept(fd, NULL, NULL));
    talk("original", client, served);
    talk("copy", copy, served);
    talk("third", third, served);
    close(client);
    talk("copy after the original's close", copy, served);
    say_flags("third", third);
    say_peername("third", third);
}

PROBE(connect_through_the_copy)
{
    int fd = listener(), client = tcp(), copy = MUST(dup(client));
    AS("connect", CONNECT(copy, at(port_of(fd))));
    int served = MUST(accept(fd, NULL, NULL));
    close(copy);
    talk("original", client, served);
    AS("connect again", CONNECT(client, at(port_of(fd))));
}

PROBE(dup2_over_another)
{
    int fd = listener(), client = tcp(), other = tcp();
    MUST(dup2(client, other));
    AS("connect", CONNECT(other, at(port_of(fd))));
    int served = MUST(accept(fd, NULL, NULL));
    talk("first", client, served);
    talk("second", other, served);
}

PROBE(as_standard_input_and_output)
{
    int fd = listener(), client = tcp(), out = MUST(fcntl(1, F_DUPFD, 40));
    MUST(dup2(client, 0));
    MUST(dup2(client, 1));
    int result = CONNECT(client, at(port_of(fd)));
    close(client);
    int served = MUST(accept(fd, NULL, NULL));
    int in = MUST(dup(0)), wrote = MUST(dup(1));
    dup2(out, 1);
    AS("connect", result);
    talk("0", in, served);
    talk("1", wrote, served);
}

PROBE(child_connects)
{
    int fd = listener(), client = tcp();
    join("child", CHILD(AS("connect", CONNECT(client, at(port_of(fd))))));
    int served = MUST(accept(fd, NULL, NULL));
    talk("parent", client, served);
    say_peername("parent", client);
}

PROBE(child_inherits_a_connection)
{
    int ends[2];
    connection(ends);
    join("child", CHILD(talk("child", ends[0], ends[1]); say_peername("child", ends[0]); say_sockname("child", ends[1])));
    talk("parent", ends[0], ends[1]);
}

PROBE(child_accepts)
{
    int fd = listener();
    pid_t child = CHILD(int one = MUST(accept(fd, NULL, NULL)); char c; recv_all(one, &c, 1); send_all(one, &c, 1));
    int client = client_of(fd);
    char c = 'q';
    send_all(client, &c, 1);
    recv_all(client, &c, 1);
    join("child", child);
    client = client_of(fd);
    talk("parent", client, MUST(accept(fd, NULL, NULL)));
}

PROBE(child_listens)
{
    int fd = tcp();
    MUST(BIND(fd, at(0)));
    join("child", CHILD(TRY(listen(fd, 5))));
    int client = client_of(fd);
    say("accepting %d", get(fd, SOL_SOCKET, SO_ACCEPTCONN));
    talk("parent accepts", client, MUST(accept(fd, NULL, NULL)));
}

PROBE(child_binds)
{
    int fd = tcp();
    join("child", CHILD(AS("bind", BIND(fd, at(0)))));
    say_sockname("parent", fd);
    TRY(listen(fd, 5));
    client_of(fd);
    ASFD("accept", accept(fd, NULL, NULL));
}

PROBE(dup_before_listen)
{
    int fd = tcp(), copy = MUST(dup(fd));
    MUST(BIND(fd, at(0)));
    MUST(listen(copy, 5));
    int client = client_of(fd);
    settle("poll through the first", fd, POLLIN, POLLIN);
    close(copy);
    talk("accepted through the first", client, MUST(accept(fd, NULL, NULL)));
}

PROBE(sent_before_connect)
{
    int fd = listener(), pair[2], client = tcp();
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    pid_t child = CHILD(int mine = receive_fd(pair[1]); AS("child's connect", CONNECT(mine, at(port_of(fd))));
                        send_all(pair[1], "x", 1));
    send_fd(pair[0], client);
    char c;
    recv_all(pair[0], &c, 1);
    join("child", child);
    talk("parent", client, MUST(accept(fd, NULL, NULL)));
}

PROBE(sent_after_connect)
{
    int ends[2], pair[2];
    connection(ends);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    pid_t child = CHILD(close(ends[0]); close(ends[1]); int one = receive_fd(pair[1]); int two = receive_fd(pair[1]);
                        talk("child", one, two); say_peername("child", one); say_sockname("child", two);
                        say("nodelay %d", get(one, IPPROTO_TCP, TCP_NODELAY)));
    MUST(set(ends[0], IPPROTO_TCP, TCP_NODELAY, 1));
    send_fd(pair[0], ends[0]);
    send_fd(pair[0], ends[1]);
    join("child", child);
}

PROBE(sent_listening)
{
    int pair[2], fd = listener();
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    int port = port_of(fd);
    pid_t child = CHILD(close(fd); int mine = receive_fd(pair[1]); say_sockname("child", mine);
                        int one = MUST(accept(mine, NULL, NULL)); send_all(one, "x", 1));
    send_fd(pair[0], fd);
    close(fd);
    int client = tcp();
    MUST(CONNECT(client, at(port)));
    char c;
    recv_all(client, &c, 1);
    join("child", child);
}

/* exec: the program runs itself again with a section that uses the descriptors it was given */
static void again(const char *section, int one, int two)
{
    char a[16], b[16];
    snprintf(a, sizeof a, "%d", one);
    snprintf(b, sizeof b, "%d", two);
    setenv("AXT_ONE", a, 1);
    setenv("AXT_TWO", b, 1);
    char *const words[] = {(char *)arguments[0], "-s", (char *)section, (char *)arguments[1], (char *)arguments[2], NULL};
    execv("/proc/self/exe", words);
    die("execv");
}
static int given(const char *name) { return getenv(name) ? atoi(getenv(name)) : -1; }

PROBE(executed)
{
    if (given("AXT_ONE") < 0) /* runs by itself only as the other half of the sections below */
        return;
    int one = given("AXT_ONE"), two = given("AXT_TWO");
    say_peername("executed", one);
    talk("executed", one, two);
}
PROBE(executed_connects)
{
    if (given("AXT_ONE") < 0)
        return;
    AS("executed connects", CONNECT(given("AXT_ONE"), at(port_of(given("AXT_TWO")))));
    talk("executed", given("AXT_ONE"), MUST(accept(given("AXT_TWO"), NULL, NULL)));
}

PROBE(exec_with_a_connection)
{
    int ends[2];
    connection(ends);
    join("exec", CHILD(again("executed", ends[0], ends[1])));
    talk("afterwards", ends[0], ends[1]);
}

PROBE(exec_before_connect)
{
    int client = tcp(), fd = listener();
    join("exec", CHILD(again("executed_connects", client, fd)));
    say_peername("afterwards", client);
}

PROBE(exec_closes)
{
    int ends[2];
    char c;
    connection(ends);
    MUST(fcntl(ends[0], F_SETFD, FD_CLOEXEC));
    pid_t child = CHILD(close(ends[1]); execl("/bin/sh", "sh", "-c", "sleep 5", NULL));
    close(ends[0]);
    settle("poll", ends[1], POLLIN, POLLIN | POLLRDHUP);
    AS("read", recv(ends[1], &c, 1, 0));
    kill(child, SIGKILL);
}

PROBE(shell_of_a_shell)
{
    /* a grandchild of another program image is still the same app */
    int fd = listener();
    char command[512];
    snprintf(command, sizeof command, "%s -s from_a_grandchild %s %s; true", "/proc/$PPID/exe", arguments[1],
             arguments[2] ? arguments[2] : "");
    char port[16];
    snprintf(port, sizeof port, "%d", port_of(fd));
    setenv("AXT_ONE", port, 1);
    pid_t child = CHILD(pid_t inner = CHILD(execl("/bin/sh", "sh", "-c", command, NULL)); join("shell", inner));
    char c;
    int served = MUST(accept(fd, NULL, NULL));
    recv_all(served, &c, 1);
    join("child", child);
    say("it said %c", c);
}
PROBE(from_a_grandchild)
{
    if (given("AXT_ONE") < 0)
        return;
    int client = tcp();
    AS("grandchild connects", CONNECT(client, at(given("AXT_ONE"))));
    send_all(client, "g", 1);
}

PROBE(vfork_child)
{
    int fd = listener();
    volatile int port = port_of(fd);
    pid_t child = vfork();
    if (child == 0) {
        int client = socket(family, SOCK_STREAM, 0);
        addr_t to = at(port);
        _exit(connect(client, &to.sa, to.len) < 0 ? errno : 0);
    }
    join("child", child);
    ASFD("accept", accept(fd, NULL, NULL));
}

static int clone_port;
static int cloned(void *unused)
{
    (void)unused;
    int client = tcp();
    AS("connect", CONNECT(client, at(clone_port)));
    return 0;
}

PROBE(clone_without_shared_files)
{
    /* shares memory but not the descriptor table */
    static char stack[65536] __attribute__((aligned(16)));
    int fd = listener();
    clone_port = port_of(fd);
    int before = MUST(dup(fd));
    close(before);
    pid_t child = MUST(clone(cloned, stack + sizeof stack, CLONE_VM | SIGCHLD, NULL));
    join("child", child);
    int after = MUST(dup(fd));
    say("nothing new in the parent: %d", before == after);
    ASFD("accept", accept(fd, NULL, NULL));
}

static void *thread_of_its_own(void *argument)
{
    int port = *(int *)argument;
    MUST(unshare(CLONE_FILES));
    int client = tcp();
    AS("connect", CONNECT(client, at(port)));
    close(client);
    return NULL;
}

PROBE(thread_with_its_own_table)
{
    int fd = listener(), port = port_of(fd);
    pthread_t thread;
    pthread_create(&thread, NULL, thread_of_its_own, &port);
    pthread_join(thread, NULL);
    ASFD("accept", accept(fd, NULL, NULL));
}
