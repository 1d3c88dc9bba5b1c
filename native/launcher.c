/* ax-launch: what `ax run` becomes, before it becomes the program.
 *
 * It meets the switch at its attach socket, enters an empty network namespace, installs the seccomp program
 * that the switch sent, hands the notification descriptor over and executes the command. It knows no policy
 * and no list of system calls, and it is gone after exec: nothing of it stays but the filter. Static and
 * without NSS, so that it runs in any container and starts in no time.
 *
 *     ax-launch --attach PATH --token-fd N [--new-netns] [--setuser UID:GID[:G1,G2...]]
 *               [--interface NAME] [--address ADDR/PREFIX ...] [--resolv-conf PATH] -- COMMAND [ARGUMENT...]
 *
 * Two rules. Everything that may fail for a reason the user can cure says so in one line and exits 125 (the
 * program that does not exist is 127, the one that cannot be executed 126, as for env(1)). And every socket
 * call is made before the filter is there, but for the one packet that carries the listener and its
 * acknowledgement: those go without an address, which the filter lets pass.
 *
 * Signal dispositions and masks are not touched; every descriptor of its own is close-on-exec.
 *
 * Sources: seccomp(2), seccomp_unotify(2), landlock(7), user_namespaces(7), rtnetlink(7), mount_namespaces(7), unix(7),
 * execve(2).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/fib_rules.h>
#include <linux/filter.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/seccomp.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)
#define NATIVE_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE_ARCH AUDIT_ARCH_AARCH64
#else
#error "AppSwitch knows the system calls of x86-64 and aarch64 only"
#endif

/* Landlock's network part is newer (Linux 6.7) than the oldest headers that we build with. */
#define LANDLOCK_CREATE_RULESET 444
#define LANDLOCK_RESTRICT_SELF 446
#define LANDLOCK_VERSION_QUERY 1U
#define LANDLOCK_NET_BIND_TCP (UINT64_C(1) << 0)
#define LANDLOCK_NET_CONNECT_TCP (UINT64_C(1) << 1)
#define LANDLOCK_ABI_WITH_NET 4

/* mount_setattr(2), Linux 5.12: newer than some headers, too. */
#define MOUNT_SETATTR 442
#define MOUNT_READ_ONLY UINT64_C(1)

enum {
    EXIT_OURS = 125,
    EXIT_CANNOT_EXECUTE = 126,
    EXIT_NOT_FOUND = 127,
    TOKEN_BYTES = 32,
    ANSWER_SECONDS = 30,
    MAX_ADDRESSES = 16,
    MESSAGE_BYTES = 1024,
    LO = 1, /* the index of lo, which is a namespace's first interface */
    UDP_TABLE = 6664,
    UDP_PRIORITY = 1000, /* behind "local", before "main" */
};

/* ------------------------------------------------------------------ what goes over attach.sock (unix(7),
 * SEQPACKET) */

#define MAGIC "AXL1"
#define PROTOCOL_VERSION 1U
#define REPLY_FORBID_TCP (1U << 0)

struct hello {
    char magic[4];
    uint32_t version;
    uint32_t landlock_abi; /* 0: none */
    uint32_t arch;         /* AUDIT_ARCH_* */
    uint8_t token[TOKEN_BYTES];
};
_Static_assert(sizeof(struct hello) == 48, "packed by its layout");

struct program {
    char magic[4];
    uint32_t status; /* 0, else an errno, and a UTF-8 message follows */
    uint32_t flags;
    uint32_t seccomp_flags; /* in addition to NEW_LISTENER */
    uint32_t insn_count;
    uint32_t reserved;
    struct sock_filter insns[BPF_MAXINSNS];
};
#define PROGRAM_HEADER offsetof(struct program, insns)
_Static_assert(PROGRAM_HEADER == 24, "packed by its layout");

struct verdict {
    char magic[4];
    uint32_t status;
    char message[MESSAGE_BYTES];
};
#define VERDICT_HEADER offsetof(struct verdict, message)

struct options {
    const char *attach;
    const char *interface;
    const char *setuser;
    const char *resolv_conf;
    const char *addresses[MAX_ADDRESSES];
    size_t address_count;
    int token_fd;
    bool new_netns;
};

/* ------------------------------------------------------------------ failing */

__attribute__((noreturn, format(printf, 2, 3))) static void die(int status, const char *format, ...) {
    char line[MESSAGE_BYTES + 256];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    dprintf(STDERR_FILENO, "ax run: %s\n", line); /* one write: lines of several launchers stay whole */
    exit(status);
}

/* ------------------------------------------------------------------ options */

static int decimal(const char *text, const char **end, long long max, long long *value) {
    char *stop;
    if (*text < '0' || *text > '9')
        return -1;
    errno = 0;
    *value = strtoll(text, &stop, 10);
    *end = stop;
    return errno || *value > max ? -1 : 0;
}

static struct options parse(int argc, char **argv) {
    static const struct option longs[] = {
        {"attach", required_argument, NULL, 'a'},      {"token-fd", required_argument, NULL, 't'},
        {"new-netns", no_argument, NULL, 'n'},         {"setuser", required_argument, NULL, 'u'},
        {"interface", required_argument, NULL, 'i'},   {"address", required_argument, NULL, 'd'},
        {"resolv-conf", required_argument, NULL, 'r'}, {NULL, 0, NULL, 0},
    };
    struct options o = {.token_fd = -1};
    const char *end;
    long long number;
    int c;
    opterr = 0;
    while ((c = getopt_long(argc, argv, "+", longs, NULL)) != -1) {
        switch (c) {
        case 'a':
            o.attach = optarg;
            break;
        case 't':
            if (decimal(optarg, &end, INT32_MAX, &number) < 0 || *end)
                die(EXIT_OURS, "--token-fd %s: not a descriptor", optarg);
            o.token_fd = (int)number;
            break;
        case 'n':
            o.new_netns = true;
            break;
        case 'u':
            o.setuser = optarg;
            break;
        case 'i':
            o.interface = optarg;
            break;
        case 'r':
            o.resolv_conf = optarg;
            break;
        case 'd':
            if (o.address_count == MAX_ADDRESSES)
                die(EXIT_OURS, "more than %d times --address", MAX_ADDRESSES);
            o.addresses[o.address_count++] = optarg;
            break;
        default:
            die(EXIT_OURS, "ax-launch: unknown or incomplete option %s (ax-launch is started by `ax run`)",
                argv[optind - 1]);
        }
    }
    if (!o.attach || o.token_fd < 0 || optind >= argc)
        die(EXIT_OURS, "ax-launch: --attach, --token-fd and a command are needed (it is started by `ax run`)");
    if (o.interface && !o.new_netns)
        die(EXIT_OURS, "--interface needs a network namespace of the app's own: leave --no-new-netns away");
    if (o.address_count && !o.new_netns)
        die(EXIT_OURS, "--address needs a network namespace of the app's own: leave --no-new-netns away");
    if (o.resolv_conf && !o.new_netns)
        die(EXIT_OURS, "--resolv-conf needs a network namespace of the app's own: leave --no-new-netns away");
    return o;
}

/* ------------------------------------------------------------------ the switch */

static void read_token(int fd, uint8_t token[TOKEN_BYTES]) {
    size_t have = 0;
    while (have < TOKEN_BYTES) {
        ssize_t got = read(fd, token + have, TOKEN_BYTES - have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            die(EXIT_OURS, "the attach token could not be read: %s", got ? strerror(errno) : "too short");
        have += (size_t)got;
    }
    close(fd);
}

static int meet(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = ANSWER_SECONDS};
    if (strlen(path) >= sizeof address.sun_path)
        die(EXIT_OURS, "%s: a socket's path has at most %zu bytes; choose a shorter AX_RUN_DIR", path,
            sizeof address.sun_path - 1);
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die(EXIT_OURS, "no socket to reach the daemon: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        die(EXIT_OURS, "the daemon does not answer at %s (%s); is `ax daemon` running, and is AX_RUN_DIR the same?",
            path, strerror(errno));
    return fd;
}

/* Sends one packet, with `passed` in its ancillary data unless that is -1. */
static void tell(int fd, const void *packet, size_t size, int passed) {
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)packet, .iov_len = size};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t sent;
    if (passed >= 0) {
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof passed);
        memcpy(CMSG_DATA(&control.header), &passed, sizeof passed);
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
    }
    do
        sent = sendmsg(fd, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent != (ssize_t)size)
        die(EXIT_OURS, "the daemon hung up (%s); its log may say why", strerror(errno));
}

/* Receives one packet of at least `header` bytes that begins with the magic; returns its size. */
static size_t hear(int fd, void *packet, size_t header, size_t size) {
    struct iovec iov = {.iov_base = packet, .iov_len = size};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t got;
    do
        got = recvmsg(fd, &message, 0);
    while (got < 0 && errno == EINTR);
    if (got < 0 && errno == EAGAIN)
        die(EXIT_OURS, "the daemon did not answer within %d seconds; its log may say why", ANSWER_SECONDS);
    if (got <= 0)
        die(EXIT_OURS, "the daemon hung up (%s); its log may say why", got ? strerror(errno) : "end of file");
    if ((size_t)got < header || memcmp(packet, MAGIC, 4) != 0 || message.msg_flags & MSG_TRUNC)
        die(EXIT_OURS, "the daemon speaks another protocol: are `ax` and `ax daemon` of one version?");
    return (size_t)got;
}

static long landlock_abi(void) {
    long abi = syscall(LANDLOCK_CREATE_RULESET, NULL, 0, LANDLOCK_VERSION_QUERY);
    return abi > 0 ? abi : 0;
}

static void fetch_program(int fd, int token_fd, struct program *program) {
    struct hello hello = {
        .magic = {'A', 'X', 'L', '1'},
        .version = PROTOCOL_VERSION,
        .landlock_abi = (uint32_t)landlock_abi(),
        .arch = NATIVE_ARCH,
    };
    read_token(token_fd, hello.token);
    tell(fd, &hello, sizeof hello, -1);
    explicit_bzero(hello.token, sizeof hello.token);

    size_t got = hear(fd, program, PROGRAM_HEADER, sizeof *program);
    size_t body = got - PROGRAM_HEADER;
    if (program->status)
        die(EXIT_OURS, "%.*s", (int)body, (const char *)program->insns);
    if (program->insn_count == 0 || body != program->insn_count * sizeof program->insns[0])
        die(EXIT_OURS, "the daemon sent a broken seccomp program: are `ax` and `ax daemon` of one version?");
}

/* ------------------------------------------------------------------ namespaces */

/* CAP_SYS_ADMIN in the user namespace that we are in. */
static bool is_admin(void) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};
    if (syscall(SYS_capget, &header, data) < 0)
        return false;
    return data[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective & CAP_TO_MASK(CAP_SYS_ADMIN);
}

static int write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t written = write(fd, text, strlen(text));
    int error = errno;
    close(fd);
    errno = error;
    return written < 0 ? -1 : 0;
}

/* The settings that forbid user namespaces: the one that does so here is named (user_namespaces(7), Debian,
 * Ubuntu). */
static const struct {
    const char *path;
    char bad;
    const char *cure;
} sysctls[] = {
    {"/proc/sys/user/max_user_namespaces", '0', "user.max_user_namespaces=10000"},
    {"/proc/sys/kernel/unprivileged_userns_clone", '0', "kernel.unprivileged_userns_clone=1"},
    {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", '1', "kernel.apparmor_restrict_unprivileged_userns=0"},
};

__attribute__((noreturn)) static void die_without_userns(const char *step, int error) {
    for (size_t i = 0; i < sizeof sysctls / sizeof sysctls[0]; i++) {
        char value = 0;
        int fd = open(sysctls[i].path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue;
        if (read(fd, &value, 1) == 1 && value == sysctls[i].bad)
            die(EXIT_OURS,
                "user namespaces are not permitted to this user (%s: %s); ask for `sysctl -w %s`, run as "
                "root, or "
                "use --no-new-netns",
                step, strerror(error), sysctls[i].cure);
        close(fd);
    }
    die(EXIT_OURS,
        "no user namespace (%s: %s); look at the sysctls user.max_user_namespaces, "
        "kernel.unprivileged_userns_clone "
        "and kernel.apparmor_restrict_unprivileged_userns (a chroot and some containers forbid them, too), run as "
        "root, or use --no-new-netns",
        step, strerror(error));
}

static void map_identity(const char *path, unsigned id) {
    char line[64];
    snprintf(line, sizeof line, "%u %u 1", id, id);
    if (write_file(path, line) < 0)
        die_without_userns(path, errno);
}

static void enter_userns(int also) {
    unsigned uid = geteuid(), gid = getegid();
    if (unshare(CLONE_NEWUSER | also) < 0)
        die_without_userns("unshare", errno);
    if (write_file("/proc/self/setgroups", "deny") < 0)
        die_without_userns("/proc/self/setgroups", errno);
    map_identity("/proc/self/uid_map", uid);
    map_identity("/proc/self/gid_map", gid);
}

static void enter_netns(void) {
    if (!is_admin())
        enter_userns(CLONE_NEWNET);
    else if (unshare(CLONE_NEWNET) < 0)
        die(EXIT_OURS, "no new network namespace: %s; --no-new-netns does without", strerror(errno));
}

/* An unprivileged daemon may look into a program that hides its memory (PR_SET_DUMPABLE), or that is not its child
 * where Yama is strict, only if it owns the program's user namespace. So the program gets one; where it cannot, those
 * two go without. */
static void make_visible(void) {
    if (is_admin())
        return;
    pid_t child = fork(); /* try it first: half a namespace, without its maps, would be worse than none */
    if (child == 0)
        _exit(unshare(CLONE_NEWUSER) == 0 && write_file("/proc/self/setgroups", "deny") == 0 ? 0 : 1);
    int status = 1;
    if (child > 0 && waitpid(child, &status, 0) == child && status == 0)
        enter_userns(0);
}

/* ------------------------------------------------------------------ rtnetlink(7) */

struct request {
    struct nlmsghdr header;
    char body[512];
};

static void *put(struct request *request, const void *data, size_t size) {
    char *at = (char *)request + NLMSG_ALIGN(request->header.nlmsg_len);
    if (data)
        memcpy(at, data, size);
    request->header.nlmsg_len = NLMSG_ALIGN(request->header.nlmsg_len) + (uint32_t)size;
    return at;
}

static struct rtattr *put_attribute(struct request *request, uint16_t type, const void *data, size_t size) {
    struct rtattr header = {.rta_type = type, .rta_len = (uint16_t)RTA_LENGTH(size)};
    struct rtattr *at = put(request, &header, sizeof header);
    if (size)
        put(request, data, size);
    return at;
}

static void end_nested(struct request *request, struct rtattr *nest) {
    nest->rta_len = (uint16_t)((char *)request + request->header.nlmsg_len - (char *)nest);
}

static struct request start(uint16_t type, uint16_t flags) {
    struct request request = {.header = {.nlmsg_len = NLMSG_HDRLEN, .nlmsg_type = type}};
    request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    return request;
}

/* Sends the request and returns the kernel's answer: 0 or an errno. */
static int ask(int netlink, struct request *request) {
    struct {
        struct nlmsghdr header;
        struct nlmsgerr error;
        char rest[1024];
    } reply;
    if (send(netlink, request, request->header.nlmsg_len, 0) < 0 || recv(netlink, &reply, sizeof reply, 0) < 0)
        return errno;
    return reply.header.nlmsg_type == NLMSG_ERROR ? -reply.error.error : EPROTO;
}

static int set_up(int netlink, const char *name) {
    struct request request = start(RTM_NEWLINK, 0);
    struct ifinfomsg info = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    put(&request, &info, sizeof info);
    put_attribute(&request, IFLA_IFNAME, name, strlen(name) + 1);
    return ask(netlink, &request);
}

/* Creates NAME of a kind, and its other end when `peer` is given. */
static int create_link(int netlink, const char *name, const char *kind, const char *peer) {
    struct request request = start(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
    struct ifinfomsg info = {.ifi_family = AF_UNSPEC};
    put(&request, &info, sizeof info);
    put_attribute(&request, IFLA_IFNAME, name, strlen(name) + 1);
    struct rtattr *link = put_attribute(&request, IFLA_LINKINFO, NULL, 0);
    put_attribute(&request, IFLA_INFO_KIND, kind, strlen(kind) + 1);
    if (peer) {
        struct rtattr *data = put_attribute(&request, IFLA_INFO_DATA, NULL, 0);
        struct rtattr *end = put_attribute(&request, VETH_INFO_PEER, NULL, 0);
        put(&request, &info, sizeof info);
        put_attribute(&request, IFLA_IFNAME, peer, strlen(peer) + 1);
        end_nested(&request, end);
        end_nested(&request, data);
    }
    end_nested(&request, link);
    return ask(netlink, &request);
}

/* NAME-peer, cut to what an interface may be called, and never NAME itself. */
static void name_peer(const char *name, char peer[IFNAMSIZ]) {
    snprintf(peer, IFNAMSIZ, "%.*s-peer", (int)(IFNAMSIZ - sizeof "-peer"), name);
    if (strcmp(peer, name) == 0)
        peer[strlen(peer) - 1] = '2';
}

static void make_interface(int netlink, const char *name) {
    char peer[IFNAMSIZ];
    if (*name == '\0' || strlen(name) >= IFNAMSIZ)
        die(EXIT_OURS, "--interface %s: a name has 1 to %d bytes", name, IFNAMSIZ - 1);
    int error = create_link(netlink, name, "dummy", NULL);
    if (error == EOPNOTSUPP) {
        name_peer(name, peer);
        error = create_link(netlink, name, "veth", peer);
        if (error == EOPNOTSUPP)
            die(EXIT_OURS,
                "--interface %s: this kernel has neither dummy nor veth interfaces; load a module "
                "(`modprobe dummy`) or leave --interface away",
                name);
        if (error == 0)
            error = set_up(netlink, peer);
    }
    if (error)
        die(EXIT_OURS, "--interface %s: %s", name, strerror(error));
}

struct address {
    int family;
    size_t size; /* of the bytes that count */
    uint8_t bytes[sizeof(struct in6_addr)];
    uint8_t prefix;
};

static struct address parse_address(const char *text) {
    struct address address = {.family = strchr(text, ':') ? AF_INET6 : AF_INET};
    char host[INET6_ADDRSTRLEN] = "";
    long long prefix = 0;
    const char *slash = strchr(text, '/'), *end = "";
    address.size = address.family == AF_INET6 ? sizeof(struct in6_addr) : sizeof(struct in_addr);
    if (slash && (size_t)(slash - text) < sizeof host)
        snprintf(host, sizeof host, "%.*s", (int)(slash - text), text);
    if (inet_pton(address.family, host, address.bytes) != 1 ||
        decimal(slash + 1, &end, (long long)address.size * 8, &prefix) < 0 || *end)
        die(EXIT_OURS, "--address %s: not an address with a prefix length, such as 10.0.0.1/24", text);
    address.prefix = (uint8_t)prefix;
    return address;
}

static int add_address(int netlink, unsigned index, const struct address *address) {
    uint32_t flags = IFA_F_PERMANENT;
    struct request request = start(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
    struct ifaddrmsg message = {
        .ifa_family = (uint8_t)address->family, .ifa_prefixlen = address->prefix, .ifa_index = index};
    put(&request, &message, sizeof message);
    put_attribute(&request, IFA_LOCAL, address->bytes, address->size);
    put_attribute(&request, IFA_ADDRESS, address->bytes, address->size);
    if (address->family == AF_INET6)
        flags |= IFA_F_NODAD; /* usable at once: nobody else is there */
    put_attribute(&request, IFA_FLAGS, &flags, sizeof flags);
    return ask(netlink, &request);
}

/* The kernel was built, booted or set not to have this part. With net.ipv6.conf.*.disable_ipv6, which a namespace may
 * inherit (net.core.devconf_inherit_init_net), addresses get EACCES and routes EINVAL. */
static bool is_missing(int family, int error) {
    return error == EOPNOTSUPP || error == EAFNOSUPPORT || (family == AF_INET6 && (error == EACCES || error == EINVAL));
}

/* ------------------------------------------------------------------ UDP goes to lo, whatever its address */

/* A datagram that the switch lets go by itself must arrive in this namespace, at whatever address it was sent to. So
 * for UDP every address is local, by a table that a rule leads to (ip-rule(8)); TCP and all else find no route, as
 * before. What goes to many is thrown back to the main table: it fails as it does on a host without routes, and IPv6
 * link-local addresses belong to an interface. */
static const struct {
    const char *destination;
    int family;
    uint8_t prefix;
    uint8_t type;
} udp_routes[] = {
    {"0.0.0.0", AF_INET, 0, RTN_LOCAL},          {"224.0.0.0", AF_INET, 4, RTN_THROW},
    {"255.255.255.255", AF_INET, 32, RTN_THROW}, {"::", AF_INET6, 0, RTN_LOCAL},
    {"ff00::", AF_INET6, 8, RTN_THROW},          {"fe80::", AF_INET6, 10, RTN_THROW},
};

/* One rule for UDP, one for packets with the mark that the switch gives its UDP sockets: ICMP errors carry it back to
 * the sender (fwmark_reflect), so that a closed port refuses connected sockets as on any host. */
static int add_udp_rule(int netlink, int family, bool marked) {
    uint32_t priority = UDP_PRIORITY + marked, table = UDP_TABLE, mark = UDP_TABLE;
    uint8_t protocol = IPPROTO_UDP;
    struct request request = start(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL);
    struct fib_rule_hdr rule = {.family = (uint8_t)family, .action = FR_ACT_TO_TBL};
    put(&request, &rule, sizeof rule);
    put_attribute(&request, FRA_PRIORITY, &priority, sizeof priority);
    if (marked)
        put_attribute(&request, FRA_FWMARK, &mark, sizeof mark);
    else
        put_attribute(&request, FRA_IP_PROTO, &protocol, sizeof protocol);
    put_attribute(&request, FRA_TABLE, &table, sizeof table);
    return ask(netlink, &request);
}

/* `source` is what datagrams come from when their program does not say. */
static int add_udp_route(int netlink, size_t index, const struct address *source) {
    uint32_t table = UDP_TABLE, lo = LO;
    struct address to = {.family = udp_routes[index].family, .prefix = udp_routes[index].prefix};
    struct request request = start(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL);
    struct rtmsg route = {.rtm_family = (uint8_t)to.family, .rtm_dst_len = to.prefix, .rtm_protocol = RTPROT_STATIC};
    route.rtm_type = udp_routes[index].type;
    to.size = to.family == AF_INET6 ? sizeof(struct in6_addr) : sizeof(struct in_addr);
    inet_pton(to.family, udp_routes[index].destination, to.bytes);
    if (route.rtm_type == RTN_LOCAL)
        route.rtm_scope = RT_SCOPE_HOST;
    put(&request, &route, sizeof route);
    put_attribute(&request, RTA_TABLE, &table, sizeof table);
    if (to.prefix)
        put_attribute(&request, RTA_DST, to.bytes, to.size);
    if (route.rtm_type == RTN_LOCAL) {
        put_attribute(&request, RTA_OIF, &lo, sizeof lo);
        put_attribute(&request, RTA_PREFSRC, source->bytes, source->size);
    }
    return ask(netlink, &request);
}

/* The app's own address, or where it has none lo's: the kernel's choice would be the destination's, which is refused.
 */
static const struct address *source_of(const struct address *addresses, size_t count, int family) {
    static const struct address loopback4 = {AF_INET, 4, {127, 0, 0, 1}, 8};
    static const struct address loopback6 = {AF_INET6, 16, {[15] = 1}, 128};
    for (size_t i = 0; i < count; i++)
        if (addresses[i].family == family)
            return &addresses[i];
    return family == AF_INET ? &loopback4 : &loopback6;
}

/* Without IPv6 there is no IPv6 to steer; without policy routing, no UDP between apps. */
static void steer_udp(int netlink, const struct address *addresses, size_t count) {
    static const int families[] = {AF_INET, AF_INET6};
    for (size_t f = 0; f < 2; f++) {
        int error = 0;
        for (size_t i = 0; i < sizeof udp_routes / sizeof udp_routes[0] && !error; i++)
            if (udp_routes[i].family == families[f])
                error = add_udp_route(netlink, i, source_of(addresses, count, families[f]));
        for (int marked = 0; marked < 2 && !error; marked++)
            error = add_udp_rule(netlink, families[f], marked);
        if (error && !is_missing(families[f], error))
            die(EXIT_OURS, "UDP cannot be led to lo: %s", strerror(error));
    }
    /* Where /proc/sys is read-only, or not there, a closed port stays silent. */
    write_file("/proc/sys/net/ipv4/fwmark_reflect", "1");
    write_file("/proc/sys/net/ipv6/fwmark_reflect", "1");
}

static void furnish_netns(const struct options *o) {
    struct address addresses[MAX_ADDRESSES];
    unsigned index = LO;
    int netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (netlink < 0)
        die(EXIT_OURS, "no rtnetlink socket: %s", strerror(errno));
    int error = set_up(netlink, "lo");
    if (error == EPERM) /* AppArmor lets the namespace be made, and takes its capabilities */
        die_without_userns("bringing lo up", error);
    if (error)
        die(EXIT_OURS, "lo cannot be brought up: %s", strerror(error));
    if (o->interface) {
        make_interface(netlink, o->interface);
        index = if_nametoindex(o->interface);
    }
    for (size_t i = 0; i < o->address_count; i++) {
        addresses[i] = parse_address(o->addresses[i]);
        error = add_address(netlink, index, &addresses[i]);
        if (error && !is_missing(addresses[i].family, error)) /* without IPv6 nobody will miss the address */
            die(EXIT_OURS, "--address %s on %s: %s", o->addresses[i], o->interface ? o->interface : "lo",
                strerror(error));
    }
    error = o->interface ? set_up(netlink, o->interface) : 0;
    if (error)
        die(EXIT_OURS, "--interface %s cannot be brought up: %s", o->interface, strerror(error));
    steer_udp(netlink, addresses, o->address_count);
    close(netlink);
}

/* ------------------------------------------------------------------ resolv.conf(5), in a mount namespace */

/* Nobody else sees it: nothing that is mounted here comes out (and what the host unmounts goes here, too). A link is
 * followed, as programs do. Read-only, for the file is every app's. */
static void replace_resolv_conf(const char *source) {
    static const char target[] = "/etc/resolv.conf";
    const struct {
        uint64_t set, clear, propagation, userns;
    } read_only = {.set = MOUNT_READ_ONLY};
    if (access(target, F_OK) < 0)
        die(EXIT_OURS, "--dns-override: %s cannot be replaced: %s%s", target, strerror(errno),
            errno == ENOENT ? "; make one, it may be empty" : "");
    if (unshare(CLONE_NEWNS) < 0)
        die(EXIT_OURS, "--dns-override: no new mount namespace: %s", strerror(errno));
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 || mount(source, target, NULL, MS_BIND, NULL) < 0 ||
        syscall(MOUNT_SETATTR, AT_FDCWD, target, 0, &read_only, sizeof read_only) < 0)
        die(EXIT_OURS, "--dns-override: %s cannot be put in place of %s: %s", source, target, strerror(errno));
}

/* ------------------------------------------------------------------ giving rights away */

/* No TCP bind or connect of the app's own, which closes the race against copied arguments. landlock(7). */
static void forbid_tcp(void) {
    const struct {
        uint64_t handled_access_fs;
        uint64_t handled_access_net;
    } ruleset = {.handled_access_net = LANDLOCK_NET_BIND_TCP | LANDLOCK_NET_CONNECT_TCP};
    if (landlock_abi() < LANDLOCK_ABI_WITH_NET)
        return;
    int fd = (int)syscall(LANDLOCK_CREATE_RULESET, &ruleset, sizeof ruleset, 0);
    if (fd < 0 || syscall(LANDLOCK_RESTRICT_SELF, fd, 0) < 0)
        die(EXIT_OURS, "Landlock cannot be applied: %s; `ax doctor` tells what the kernel has", strerror(errno));
    close(fd);
}

static int install(const struct program *program) {
    struct sock_fprog fprog = {
        .len = (unsigned short)program->insn_count,
        .filter = (struct sock_filter *)(uintptr_t)program->insns,
    };
    unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER | program->seccomp_flags;
    int fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &fprog);
    if (fd >= 0)
        return fd;
    if (errno == EBUSY)
        die(EXIT_OURS, "this process already runs under a seccomp user-notification supervisor (nested ax run?)");
    if (errno == EINVAL || errno == ENOSYS)
        die(EXIT_OURS,
            "this kernel lacks seccomp user notification (%s): Linux 5.14 or newer is needed; see `ax "
            "doctor`",
            strerror(errno));
    die(EXIT_OURS, "the seccomp filter cannot be installed: %s; see `ax doctor`", strerror(errno));
}

static void hand_over(int fd, int listener, struct program *spare) {
    struct verdict verdict = {.magic = {'A', 'X', 'L', '1'}};
    size_t got;
    tell(fd, &verdict, VERDICT_HEADER, listener);
    close(listener);
    do /* a switch that has succeeded another one does not know whether we have its program, and sends it again */
        got = hear(fd, spare, VERDICT_HEADER, sizeof *spare);
    while (!spare->status && got > VERDICT_HEADER);
    if (spare->status) {
        got = got < sizeof verdict ? got : sizeof verdict;
        memcpy(&verdict, spare, got);
        die(EXIT_OURS, "%.*s", (int)(got - VERDICT_HEADER), verdict.message);
    }
    close(fd);
}

/* UID:GID[:G1,G2...], all numbers: names were resolved by the command line. */
static void become(const char *text) {
    long long uid, gid, group;
    const char *at = text;
    size_t count = 0;
    gid_t *groups = calloc(strlen(text) + 1, sizeof *groups);
    if (!groups)
        die(EXIT_OURS, "--user: %s", strerror(errno));
    if (decimal(at, &at, UINT32_MAX - 1, &uid) < 0 || *at++ != ':' || decimal(at, &at, UINT32_MAX - 1, &gid) < 0)
        die(EXIT_OURS, "--setuser %s: not UID:GID[:G1,G2...]", text);
    for (; *at == (count ? ',' : ':'); count++) {
        if (decimal(at + 1, &at, UINT32_MAX - 1, &group) < 0)
            die(EXIT_OURS, "--setuser %s: not UID:GID[:G1,G2...]", text);
        groups[count] = (gid_t)group;
    }
    if (*at)
        die(EXIT_OURS, "--setuser %s: not UID:GID[:G1,G2...]", text);
    if (setgroups(count, groups) < 0 || setresgid((gid_t)gid, (gid_t)gid, (gid_t)gid) < 0 ||
        setresuid((uid_t)uid, (uid_t)uid, (uid_t)uid) < 0)
        die(EXIT_OURS, "--user: cannot become %s: %s; only root can", text, strerror(errno));
    free(groups);
}

__attribute__((noreturn)) static void execute(char **argv) {
    execvp(argv[0], argv);
    int error = errno;
    if (error == ENOENT && strchr(argv[0], '/') && access(argv[0], F_OK) == 0)
        die(EXIT_NOT_FOUND, "%s: its interpreter or loader does not exist", argv[0]);
    if (error == ENOENT)
        die(EXIT_NOT_FOUND, "%s: command not found", argv[0]);
    die(EXIT_CANNOT_EXECUTE, "%s: %s", argv[0], strerror(error));
}

int main(int argc, char **argv) {
    static struct program program;
    struct options o = parse(argc, argv);
    int fd = meet(o.attach); /* before any namespace: SO_PEERCRED then says who we are outside */
    fetch_program(fd, o.token_fd, &program);
    if (o.new_netns) {
        enter_netns();
        furnish_netns(&o);
        if (o.resolv_conf)
            replace_resolv_conf(o.resolv_conf);
    } else {
        make_visible();
    }
    if (!is_admin() && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        die(EXIT_OURS, "no_new_privs cannot be set: %s", strerror(errno));
    if (program.flags & REPLY_FORBID_TCP)
        forbid_tcp();
    hand_over(fd, install(&program), &program);
    if (o.setuser)
        become(o.setuser);
    execute(argv + optind);
}
