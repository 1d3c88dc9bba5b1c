/* System calls by other doors than the ordinary one. Prints what each came to. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void tell(const char *label, long result)
{
    printf("%s: %s\n", label, result < 0 ? strerrorname_np((int)-result) : "done");
    fflush(stdout);
}

static long raw(long number, long a, long b, long c)
{
    long result = syscall(number, a, b, c);
    return result < 0 ? -errno : result;
}

/* Runs in a child: whoever calls may be killed for it. */
static void in_a_child(const char *label, long (*call)(void))
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        tell(label, call());
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status))
        printf("%s: SIG%s\n", label, sigabbrev_np(WTERMSIG(status)));
    fflush(stdout);
}

#ifdef __x86_64__
static long int80(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
    return result;
}
/* On a bad descriptor: a call that is let through says EBADF. */
static long int80_connect(void) { return int80(362, -1, 0, 0); }
static long int80_bind(void) { return int80(361, -1, 0, 0); }
static long int80_accept4(void) { return int80(364, -1, 0, 0); }
static long int80_uring(void) { return int80(425, 8, 0, 0); }
static long int80_socket(void) { return int80(359, 2, 1, 0); }
static long int80_socketcall(void) { return int80(102, 1, 0, 0); }
static long x32_connect(void) { return raw(0x40000000L | SYS_connect, -1, 0, 0); }
static long x32_uring(void) { return raw(0x40000000L | 425, 8, 0, 0); }
static long x32_socket(void) { return raw(0x40000000L | SYS_socket, 2, 1, 0); }
#endif
static long uring_setup(void) { return raw(425, 8, 0, 0); }
static long uring_enter(void) { return raw(426, 0, 0, 0); }
static long uring_register(void) { return raw(427, 0, 0, 0); }

int main(void)
{
    in_a_child("io_uring_setup", uring_setup);
    in_a_child("io_uring_enter", uring_enter);
    in_a_child("io_uring_register", uring_register);
#ifdef __x86_64__
    in_a_child("int 0x80 connect", int80_connect);
    in_a_child("int 0x80 bind", int80_bind);
    in_a_child("int 0x80 accept4", int80_accept4);
    in_a_child("int 0x80 io_uring_setup", int80_uring);
    in_a_child("int 0x80 socket", int80_socket);
    in_a_child("int 0x80 socketcall", int80_socketcall);
    in_a_child("x32 connect", x32_connect);
    in_a_child("x32 io_uring_setup", x32_uring);
    in_a_child("x32 socket", x32_socket);
#endif
    return 0;
}
