/* Reading and writing: the data path is never intercepted, and must still behave as TCP's. */
#include "probe.h"
#include <linux/sockios.h>
#include <sys/sendfile.h>
#ifndef SIOCOUTQNSD
#define SIOCOUTQNSD 0x894B
#endif

static void arrived(int fd, int bytes)
{
    int there = 0;
    double end = now() + 4;
    while (now() < end && (ioctl(fd, FIONREAD, &there) < 0 || there < bytes))
        usleep(1000);
    if (there < bytes)
        die("bytes never arrived");
}

PROBE(plain)
{
    int ends[2];
    char text[32] = "";
    connection(ends);
    TRY(write(ends[0], "one", 3));
    TRY(send(ends[0], "two", 3, 0));
    arrived(ends[1], 6);
    TRY(read(ends[1], text, sizeof text));
    say("%s", text);
    TRY(send(ends[1], "back", 4, MSG_NOSIGNAL));
    TRY(recv(ends[0], text, 2, 0));
    TRY(recv(ends[0], text + 2, 10, 0));
    say("%.4s", text);
    TRY(write(ends[0], "", 0));
}

PROBE(peek)
{
    int ends[2];
    char text[32] = "";
    connection(ends);
    send_all(ends[0], "hello", 5);
    arrived(ends[1], 5);
    TRY(recv(ends[1], text, 2, MSG_PEEK));
    TRY(recv(ends[1], text, sizeof text, MSG_PEEK));
    TRY(recv(ends[1], text, sizeof text, MSG_PEEK | MSG_DONTWAIT));
    TRY(recv(ends[1], text, sizeof text, 0));
    say("%s", text);
}

PROBE(wait_for_all)
{
    int ends[2];
    char text[32] = "";
    connection(ends);
    send_all(ends[0], "12345", 5);
    int reader = getpid();
    pid_t child = CHILD(until_asleep(reader, reader); send_all(ends[0], "67890", 5));
    TRY(recv(ends[1], text, 10, MSG_WAITALL));
    say("%s", text);
    join("child", child);
    send_all(ends[0], "end", 3);
    shutdown(ends[0], SHUT_WR);
    TRY(recv(ends[1], text, 10, MSG_WAITALL));
}

PROBE(dont_wait)
{
    int ends[2];
    char text[8];
    connection(ends);
    TRY(recv(ends[1], text, sizeof text, MSG_DONTWAIT));
    MUST(fcntl(ends[1], F_SETFL, O_NONBLOCK));
    TRY(read(ends[1], text, sizeof text));
}

PROBE(full_buffers)
{
    static char block[65536];
    int ends[2];
    long sent = 0, n, received = 0;
    connection(ends);
    while ((n = send(ends[0], block, sizeof block, MSG_DONTWAIT)) > 0)
        sent += n;
    AS("when full", n);
    EVENTS("poll", ends[0], POLLOUT, 0);
    while (received < sent && (n = read(ends[1], block, sizeof block)) > 0)
        received += n;
    say("received what was sent: %d", received == sent);
    settle("writable again", ends[0], POLLOUT, POLLOUT);
}

PROBE(receive_timeout)
{
    int ends[2];
    char c;
    struct timeval t = {0, 100000};
    connection(ends);
    MUST(setsockopt(ends[1], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    double start = now();
    TRY(read(ends[1], &c, 1));
    double took = now() - start;
    say("waited %d", took > 0.08 && took < 1);
}

PROBE(receive_low_water)
{
    int ends[2];
    char text[16];
    connection(ends);
    MUST(set(ends[1], SOL_SOCKET, SO_RCVLOWAT, 4));
    send_all(ends[0], "12", 2);
    arrived(ends[1], 2);
    int reader = getpid();
    pid_t child = CHILD(until_asleep(reader, reader); send_all(ends[0], "3456", 4));
    long n = recv(ends[1], text, sizeof text, 0);
    say("at least 4: %d", n >= 4);
    join("child", child);
}

PROBE(receive_low_water_and_poll)
{
    int ends[2];
    connection(ends);
    MUST(set(ends[1], SOL_SOCKET, SO_RCVLOWAT, 4));
    send_all(ends[0], "12", 2);
    arrived(ends[1], 2);
    EVENTS("two of four", ends[1], POLLIN, 0);
    send_all(ends[0], "34", 2);
    settle("four of four", ends[1], POLLIN, POLLIN);
}

PROBE(messages)
{
    int ends[2];
    char a[3] = "", b[8] = "", control[64];
    addr_t from = {.len = sizeof from.ss};
    connection(ends);
    struct iovec out[] = {{"he", 2}, {"", 0}, {"llo", 3}}, in[] = {{a, 2}, {b, 7}};
    struct msghdr sending = {.msg_iov = out, .msg_iovlen = 3};
    struct msghdr receiving = {.msg_name = &from.ss, .msg_namelen = from.len, .msg_iov = in, .msg_iovlen = 2,
                               .msg_control = control, .msg_controllen = sizeof control};
    TRY(sendmsg(ends[0], &sending, MSG_NOSIGNAL));
    arrived(ends[1], 5);
    TRY(recvmsg(ends[1], &receiving, 0));
    say("%s %s, flags %x, control %d bytes", a, b, receiving.msg_flags, (int)receiving.msg_controllen);
    TRY(writev(ends[0], out, 3));
    arrived(ends[1], 5);
    TRY(readv(ends[1], in, 2));
}

/* recv(2): a stream's receive leaves the address alone and says length 0. */
PROBE(address_of_a_stream)
{
    int ends[2];
    char c;
    connection(ends);
    for (int i = 0; i < 2; i++) {
        addr_t from = {.len = sizeof from.ss};
        from.sa.sa_family = 0x77;
        send_all(ends[1 - i], "abc", 3);
        arrived(ends[i], 3);
        TRY(recvfrom(ends[i], &c, 1, 0, &from.sa, &from.len));
        say("length is 0: %d, touched %d", from.len == 0, from.sa.sa_family != 0x77);
        TRY(recvfrom(ends[i], &c, 1, 0, NULL, NULL));
        from.len = sizeof from.ss;
        TRY(recvfrom(ends[i], &c, 1, MSG_PEEK, &from.sa, &from.len));
        say("length is 0: %d", from.len == 0);
    }
}

PROBE(address_of_a_message)
{
    int ends[2];
    char c;
    struct iovec io = {&c, 1};
    connection(ends);
    for (int i = 0; i < 2; i++) {
        addr_t from = {.len = sizeof from.ss};
        struct msghdr message = {.msg_name = &from.ss, .msg_namelen = sizeof from.ss, .msg_iov = &io, .msg_iovlen = 1};
        send_all(ends[1 - i], "a", 1);
        arrived(ends[i], 1);
        TRY(recvmsg(ends[i], &message, 0));
        say("length is 0: %d", message.msg_namelen == 0);
    }
}

PROBE(address_of_nothing)
{
    int ends[2];
    char c;
    addr_t from = {.len = sizeof from.ss};
    connection(ends);
    AS("nothing there", recvfrom(ends[0], &c, 1, MSG_DONTWAIT, &from.sa, &from.len));
    shutdown(ends[1], SHUT_WR);
    poll_one(ends[0], POLLIN, 4000);
    AS("the end", recvfrom(ends[0], &c, 1, 0, &from.sa, &from.len));
    AS("bad address", recvfrom(ends[0], &c, 1, 0, (struct sockaddr *)8, &from.len));
    int me = getpid();
    pid_t child = CHILD(until_asleep(me, me); send_all(ends[0], "x", 1));
    AS("waits", recvfrom(ends[1], &c, 1, 0, &from.sa, &from.len));
    join("child", child);
}

PROBE(send_with_an_address)
{
    int ends[2], fd = listener();
    char text[8] = "";
    addr_t elsewhere = at(port_of(fd));
    struct sockaddr_un local = {.sun_family = AF_UNIX, .sun_path = "/nonesuch"};
    connection(ends);
    signal(SIGPIPE, SIG_IGN);
    TRY(sendto(ends[0], "abc", 3, 0, &elsewhere.sa, elsewhere.len));
    arrived(ends[1], 3);
    TRY(read(ends[1], text, sizeof text));
    TRY(sendto(ends[0], "abc", 3, 0, (struct sockaddr *)&local, sizeof local));
    TRY(sendto(ends[0], "abc", 3, 0, (struct sockaddr *)8, 16));
    TRY(sendto(ends[0], "abc", 3, 0, &elsewhere.sa, 0));
    TRY(sendto(ends[0], "abc", 3, 0, NULL, 16));
    TRY(sendto(tcp(), "abc", 3, 0, &elsewhere.sa, elsewhere.len));
    TRY(sendto(ends[0], (void *)8, 3, 0, &elsewhere.sa, elsewhere.len));
}

PROBE(message_with_an_address)
{
    int ends[2], fd = listener();
    addr_t elsewhere = at(port_of(fd));
    struct iovec io = {"abc", 3};
    struct msghdr message = {.msg_name = &elsewhere.ss, .msg_namelen = elsewhere.len, .msg_iov = &io, .msg_iovlen = 1};
    connection(ends);
    TRY(sendmsg(ends[0], &message, MSG_NOSIGNAL));
}

PROBE(fast_open)
{
    int fd = listener(), client = tcp();
    char text[16] = "";
    addr_t to = at(port_of(fd));
    TRY(sendto(client, "first", 5, MSG_FASTOPEN | MSG_NOSIGNAL, &to.sa, to.len));
    int served = ASFD("accept", accept(fd, NULL, NULL));
    recv_all(served, text, 5);
    say("%s", text);
    talk("talk", client, served);
    TRY(sendto(client, "again", 5, MSG_FASTOPEN | MSG_NOSIGNAL, &to.sa, to.len));
    TRY(sendto(tcp(), "none", 4, MSG_FASTOPEN | MSG_NOSIGNAL, NULL, 0));
    addr_t nowhere = at(unused_port());
    TRY(sendto(tcp(), "none", 4, MSG_FASTOPEN | MSG_NOSIGNAL, &nowhere.sa, nowhere.len));
}

PROBE(fast_open_nonblocking)
{
    int fd = listener(), client = tcp_nonblocking();
    addr_t to = at(port_of(fd));
    long sent = sendto(client, "first", 5, MSG_FASTOPEN | MSG_NOSIGNAL, &to.sa, to.len);
    say("sent: %s", sent == 5 || (sent < 0 && errno == EINPROGRESS) ? "at once or in progress" : name_of_errno(errno));
    settle("poll", client, POLLOUT, POLLOUT | POLLIN);
    if (sent < 0)
        send_all(client, "first", 5);
    char text[16] = "";
    recv_all(MUST(accept(fd, NULL, NULL)), text, 5);
    say("%s", text);
}

PROBE(fast_open_message)
{
    int fd = listener(), client = tcp();
    addr_t to = at(port_of(fd));
    char text[16] = "";
    struct iovec io[2] = {{"fir", 3}, {"st", 2}};
    struct msghdr message = {.msg_name = &to.ss, .msg_namelen = to.len, .msg_iov = io, .msg_iovlen = 2};
    TRY(sendmsg(client, &message, MSG_FASTOPEN | MSG_NOSIGNAL));
    recv_all(ASFD("accept", accept(fd, NULL, NULL)), text, 5);
    say("%s", text);
}

PROBE(fast_open_connect)
{
    int fd = listener(), client = tcp();
    char text[16] = "";
    MUST(set(client, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1));
    AS("connect", CONNECT(client, at(port_of(fd))));
    TRY(write(client, "first", 5));
    recv_all(MUST(accept(fd, NULL, NULL)), text, 5);
    say("%s", text);
}

PROBE(counted)
{
    int ends[2], n = -1;
    connection(ends);
    TRY(ioctl(ends[1], FIONREAD, &n));
    say("%d", n);
    send_all(ends[0], "12345", 5);
    arrived(ends[1], 5);
    TRY(ioctl(ends[1], SIOCINQ, &n));
    say("%d", n);
    AS("on a listening socket", ioctl(listener(), FIONREAD, &n));
    char text[8];
    recv_all(ends[1], text, 5);
    double end = now() + 4;
    do {
        MUST(ioctl(ends[0], SIOCOUTQ, &n));
    } while (n && now() < end && usleep(1000) == 0);
    say("nothing unsent after it was read: %d", n);
    n = -1;
    TRY(ioctl(ends[0], SIOCOUTQNSD, &n));
    say("%d", n);
}

PROBE(at_mark)
{
    int ends[2], n = -1;
    connection(ends);
    TRY(ioctl(ends[1], SIOCATMARK, &n));
    say("%d", n);
}

PROBE(out_of_band)
{
    int ends[2];
    char c = 0, text[8] = "";
    connection(ends);
    TRY(send(ends[0], "ab!", 3, MSG_OOB));
    settle("poll", ends[1], POLLPRI, POLLPRI);
    TRY(recv(ends[1], &c, 1, MSG_OOB));
    say("%c", c);
    TRY(recv(ends[1], text, sizeof text, 0));
    say("%s", text);
}

PROBE(two_directions_at_once)
{
    enum { SIZE = 4 << 20 };
    int ends[2];
    unsigned char *out = malloc(SIZE), *in = malloc(SIZE);
    connection(ends);
    for (int i = 0; i < SIZE; i++)
        out[i] = (unsigned char)(i * 7 + i / 251);
    pid_t child = CHILD(long got = 0; long put = 0; char buffer[65536]; close(ends[0]); while (got < SIZE) {
        long n = read(ends[1], buffer, sizeof buffer);
        if (n <= 0)
            die("child's read");
        got += n;
        send_all(ends[1], buffer, n);
        put += n;
    });
    pid_t writer = CHILD(send_all(ends[0], out, SIZE));
    recv_all(ends[0], in, SIZE);
    say("same: %d", memcmp(in, out, SIZE) == 0);
    join("echo", child);
    join("writer", writer);
}

PROBE(sendfile_and_splice)
{
    enum { SIZE = 1 << 20 };
    int ends[2], pipes[2], file = MUST(memfd_create("data", 0));
    unsigned char *data = malloc(SIZE), *in = malloc(SIZE);
    connection(ends);
    for (int i = 0; i < SIZE; i++)
        data[i] = (unsigned char)(i * 13 + i / 253);
    if (write(file, data, SIZE) != SIZE)
        die("write");
    pid_t child = CHILD(off_t offset = 0; while (offset < SIZE) if (sendfile(ends[0], file, &offset, SIZE - offset) <= 0)
                            die("sendfile"););
    recv_all(ends[1], in, SIZE);
    say("sendfile: same %d", memcmp(in, data, SIZE) == 0);
    join("child", child);
    MUST(pipe(pipes));
    memset(in, 0, SIZE);
    child = CHILD(long left = SIZE; loff_t offset = 0; while (left) {
        long n = MUST(splice(file, &offset, pipes[1], NULL, left, SPLICE_F_MOVE));
        left -= n;
        while (n) {
            long m = splice(pipes[0], NULL, ends[0], NULL, n, SPLICE_F_MOVE);
            if (m <= 0)
                die("splice to the socket");
            n -= m;
        }
    });
    recv_all(ends[1], in, SIZE);
    say("splice out: same %d", memcmp(in, data, SIZE) == 0);
    join("child", child);
    send_all(ends[0], data, 10000);
    long in_pipe = 0;
    while (in_pipe < 10000) {
        long n = splice(ends[1], NULL, pipes[1], NULL, 10000 - in_pipe, SPLICE_F_MOVE);
        if (n <= 0)
            die("splice from the socket");
        in_pipe += n;
    }
    memset(in, 0, 10000);
    MUST(read(pipes[0], in, 10000));
    say("splice in: same %d", memcmp(in, data, 10000) == 0);
}

PROBE(many_messages)
{
    int ends[2];
    struct mmsghdr messages[4];
    struct iovec io[4];
    char text[16] = "";
    connection(ends);
    for (int i = 0; i < 4; i++) {
        io[i] = (struct iovec){"abcd" + i, 1};
        messages[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &io[i], .msg_iovlen = 1}};
    }
    TRY(sendmmsg(ends[0], messages, 4, MSG_NOSIGNAL));
    recv_all(ends[1], text, 4);
    say("%s", text);
}

PROBE(descriptors_do_not_travel)
{
    /* TCP carries bytes only: a descriptor in a control message is ignored */
    int ends[2];
    char control[64], c;
    struct iovec io = {&c, 1};
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    connection(ends);
    send_fd(ends[0], 1);
    TRY(recvmsg(ends[1], &message, 0));
    say("control %d bytes", (int)message.msg_controllen);
}

PROBE(error_queue)
{
    int ends[2];
    char control[64], c;
    struct iovec io = {&c, 1};
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    connection(ends);
    TRY(recvmsg(ends[0], &message, MSG_ERRQUEUE | MSG_DONTWAIT));
}

PROBE(error_queue_is_not_data)
{
    int ends[2];
    char c;
    struct iovec io = {&c, 1};
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1};
    connection(ends);
    MUST(send(ends[1], "a", 1, MSG_NOSIGNAL));
    EVENTS("there", ends[0], POLLIN, 1000);
    TRY(recvmsg(ends[0], &message, MSG_ERRQUEUE | MSG_DONTWAIT));
    TRY(recv(ends[0], &c, 1, MSG_DONTWAIT));
}

PROBE(more_is_held_back)
{
    /* TCP waits 200 ms for the rest: who is kept from the processor for so long tries again */
    int ends[2], held = 0;
    char text[2];
    connection(ends);
    for (int i = 0; i < 5 && !held; i++) {
        MUST(send(ends[0], "a", 1, MSG_NOSIGNAL | MSG_MORE));
        held = recv(ends[1], text, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
        MUST(send(ends[0], "b", 1, MSG_NOSIGNAL));
        recv_all(ends[1], text, held ? 2 : 1);
    }
    say("held back: %d", held);
}
