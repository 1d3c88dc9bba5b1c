"""The seccomp program, run as the kernel would run it: net/core/filter.c, kernel/seccomp.c."""

from __future__ import annotations

import errno
import struct

import pytest

from appswitch.kernel import bpf
from appswitch.switch import filter as seccomp
from appswitch.switch.syscalls import AARCH64, TABLE, X86_64, Syscall

ARCHES = (X86_64, AARCH64)
AUDIT = {X86_64: 0xC000003E, AARCH64: 0xC00000B7}
ALLOW, NOTIFY, ENOSYS = 0x7FFF0000, 0x7FC00000, 0x00050000 | errno.ENOSYS
PROGRAMS = {arch: list(struct.iter_unpack("=HBBI", seccomp.build(arch))) for arch in ARCHES}
HIGH = 1 << 32  # of what only the high word of an argument holds
BPF_MAXINSNS = 4096


def run(arch: str, nr: int, *arguments: int, audit: int | None = None) -> int:
    """What the program of ``arch`` returns."""
    data = struct.pack(
        "=IIQ6Q", nr, AUDIT[arch] if audit is None else audit, 0, *arguments, *[0] * (6 - len(arguments))
    )
    a, at, code = 0, 0, PROGRAMS[arch]
    while True:
        instruction, yes, no, k = code[at]
        at += 1
        if instruction == bpf.LD_W_ABS:
            assert k % 4 == 0
            (a,) = struct.unpack_from("=I", data, k)
        elif instruction == bpf.ALU_AND_K:
            a &= k
        elif instruction == bpf.RET_K:
            return int(k)
        else:
            holds = {bpf.JEQ_K: a == k, bpf.JGE_K: a >= k, bpf.JSET_K: bool(a & k)}[instruction]
            at += yes if holds else no


def call(arch: str, name: str, *arguments: int) -> int:
    return run(arch, {row.name: row.number(arch) or 0 for row in TABLE}[name], *arguments)


@pytest.mark.parametrize("arch", ARCHES)
def test_the_kernel_would_take_it(arch: str) -> None:
    """As bpf_check_classic() and seccomp_check_filter(): every path ends within the program."""
    code = PROGRAMS[arch]
    assert 0 < len(code) <= BPF_MAXINSNS
    assert code[-1][0] == bpf.RET_K
    for at, (instruction, yes, no, _) in enumerate(code):
        assert instruction in {bpf.LD_W_ABS, bpf.ALU_AND_K, bpf.RET_K, bpf.JEQ_K, bpf.JGE_K, bpf.JSET_K}
        assert at + 1 + max(yes, no) < len(code) or instruction == bpf.RET_K


def test_other_architectures_have_no_program() -> None:
    with pytest.raises(KeyError):
        seccomp.build("riscv64")


# Rows that look at nothing but the number.
PLAIN = [row for row in TABLE if row.when == ((),)]


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("row", PLAIN, ids=lambda row: row.name)
def test_calls_that_are_always_looked_at(arch: str, row: Syscall) -> None:
    number = row.number(arch)
    if number is None:
        assert row.name == "epoll_create"
        assert arch == AARCH64
        return
    expected = ENOSYS if row.name.startswith("io_uring") else NOTIFY
    assert run(arch, number) == expected
    assert run(arch, number, *[2**64 - 1] * 6) == expected


SOCKOPTS = ("getsockopt", "setsockopt")
# name, arguments, whether it is notified. An argument with HIGH set has a high word.
JUDGED = [
    ("sendto", (3, 1, 1, 0, 0, 0), False),
    ("sendto", (3, 1, 1, 0, 0x1000, 16), True),
    ("sendto", (3, 1, 1, 0, 0x7F << 32, 16), True),  # the low word of a pointer may be 0
    ("sendto", (3, 1, 1, 0, 1, 0), True),
    ("sendto", (3, 1, 1, 0x20000000, 0, 0), True),
    ("sendto", (3, 1, 1, 0xDFFFFFFF, 0, 0), False),  # every flag but MSG_FASTOPEN
    ("sendto", (3, 1, 1, 0x20000000 * HIGH, 0, 0), False),  # flags are an int
    ("sendmsg", (3, 0x1000, 0), False),
    ("sendmsg", (3, 0x1000, 0x20000000), True),
    ("sendmsg", (3, 0x1000, 0x20004040), True),
    ("sendmsg", (3, 0x1000, 0xDFFFFFFF), False),
    *(("sendmsg", (fd, 0x1000, 0), True) for fd in (896, 1023, 15360, 16383, 896 + HIGH)),
    *(("sendmsg", (fd, 0x1000, 0), False) for fd in (895, 1024, 15359, 16384, 0x7FFFFFFF, 0xFFFFFFFF)),
    *(("sendmmsg", (fd, 0x1000, 1, 0), fd == 896) for fd in (895, 896, 1024)),
    ("sendmmsg", (3, 0x1000, 2, 0), False),
    ("sendmmsg", (3, 0x1000, 0x20000000, 0), False),  # how many, no flags
    ("sendmmsg", (3, 0x1000, 2, 0x20000000), True),
    ("ioctl", (3, 0x894B, 0x1000), True),
    ("ioctl", (3, 0x894B + HIGH, 0x1000), True),  # the command is an unsigned int
    ("ioctl", (3, 0x5411, 0x1000), False),
    ("ioctl", (0x894B, 0, 0x894B), False),
    ("socket", (2, 1, 0), True),
    ("socket", (10, 1, 6), True),
    ("socket", (10 + HIGH, 1 + HIGH, 0), True),  # ints
    ("socket", (2, 1 | 0o2000000 | 0o4000, 0), True),  # SOCK_CLOEXEC, SOCK_NONBLOCK
    ("socket", (2, 1, 262), True),  # MPTCP
    ("socket", (2, 2, 0), True),
    ("socket", (10, 2 | 0o2000000, 17), True),
    ("socket", (2, 2, 1), False),  # ICMP
    ("socket", (2, 2, 136), False),  # UDP-Lite
    ("socket", (1, 2, 0), False),
    ("socket", (2, 3, 0), False),
    ("socket", (2, 5, 0), False),  # SOCK_SEQPACKET has the bit of SOCK_STREAM
    ("socket", (1, 1, 0), False),
    ("socket", (16, 1, 0), False),
    # Any level but that of sockets and netlink's: TCP answers differently even where it knows nothing.
    *((name, (3, level, 15), True) for name in SOCKOPTS for level in (0, 6, 17, 41, 255, 263, 271, 284, 0xFFFFFFFF)),
    *((name, (3, 270, option), False) for name in SOCKOPTS for option in (1, 10, 15, 38)),
    ("getsockopt", (3, 270 + HIGH, 15), False),
    ("setsockopt", (3, 6 + HIGH, 1), True),
    *(("getsockopt", (3, 1, option), True) for option in (2, 15, 17, 31, 38, 39, 59, 77)),
    *(("getsockopt", (3, 1, option), False) for option in (1, 3, 4, 7, 8, 9, 13, 16, 20, 30, 34, 57, 76)),
    *(("setsockopt", (3, 1, option), True) for option in (2, 15, 16, 34, 76)),
    *(("setsockopt", (3, 1, option), False) for option in (1, 7, 8, 9, 13, 17, 20, 21, 31, 38, 59, 77)),
    ("getsockopt", (0, 1, 9, 15, 15), False),
    ("getsockopt", (3, 1 + HIGH, 15 + HIGH), True),
]


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize(("name", "arguments", "seen"), JUDGED, ids=lambda v: v if isinstance(v, str) else None)
def test_calls_that_are_looked_at_when_their_arguments_say_so(
    arch: str, name: str, arguments: tuple[int, ...], seen: bool
) -> None:
    assert call(arch, name, *arguments) == (NOTIFY if seen else ALLOW)


def test_every_row_was_judged() -> None:
    both = {(name, seen) for name, _, seen in JUDGED}
    judged = {row.name for row in TABLE if row not in PLAIN}
    assert both == {(name, seen) for name in judged for seen in (True, False)}


@pytest.mark.parametrize("arch", ARCHES)
def test_everything_else_is_the_kernels(arch: str) -> None:
    ours = {row.number(arch) for row in TABLE}
    answers = {nr: run(arch, nr, *[2**64 - 1] * 6) for nr in range(600) if nr not in ours}
    assert {nr for nr, answer in answers.items() if answer != ALLOW} == set()


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("audit", [0, 0x40000028, 0xC000003E, 0xC00000B7, 0x40000003, 0xC00000F3])
def test_other_architectures_can_call_nothing(arch: str, audit: int) -> None:
    if audit == AUDIT[arch]:
        assert run(arch, 0, audit=audit) == ALLOW
    elif (arch, audit) == (X86_64, seccomp.AUDIT_ARCH_I386):
        assert run(arch, 1, audit=audit) == ALLOW  # exit(2): 32-bit programs may run
    else:
        assert {run(arch, nr, audit=audit) for nr in (0, 1, 41, 42, 198, 203, 425)} == {ENOSYS}


@pytest.mark.parametrize("nr", [0, 41, 42, 49, 512, 519, 536, 547, 0x3FFFFFFF, 0xBFFFFFFF])
def test_x32_calls_do_not_exist(nr: int) -> None:
    assert run(X86_64, 0x40000000 | nr) == ENOSYS


def test_the_last_number_below_x32_is_the_kernels() -> None:
    assert run(X86_64, 0x3FFFFFFF) == ALLOW


# arch/x86/entry/syscalls/syscall_32.tbl
I386_NETWORK = {
    102: "socketcall", 359: "socket", 361: "bind", 362: "connect", 363: "listen", 364: "accept4", 365: "getsockopt",
    366: "setsockopt", 367: "getsockname", 368: "getpeername", 369: "sendto", 370: "sendmsg", 371: "recvfrom",
    372: "recvmsg", 373: "shutdown", 337: "recvmmsg", 345: "sendmmsg", 425: "io_uring_setup", 426: "io_uring_enter",
    427: "io_uring_register",
}  # fmt: skip


def test_32_bit_programs_have_no_network() -> None:
    refused = {nr for nr in range(600) if run(X86_64, nr, audit=0x40000003) == ENOSYS}
    assert refused == set(I386_NETWORK)
    assert {run(X86_64, nr, audit=0x40000003) for nr in range(600) if nr not in refused} == {ALLOW}


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("kind", [1, 2, 5, 1 | 0o2004000])
@pytest.mark.parametrize("family", [40, 43, 21, 42, 33, 41])
def test_families_that_no_policy_is_about(arch: str, family: int, kind: int) -> None:
    """AF_VSOCK reaches the hypervisor from any network namespace: it is not there."""
    assert call(arch, "socket", family, kind, 0) == 0x00050000 | errno.EAFNOSUPPORT
