"""The seccomp program of an app, derived from the table of system calls. seccomp(2)."""

from __future__ import annotations

import errno

from appswitch.kernel import bpf
from appswitch.switch.syscalls import I386_REFUSED, TABLE, X86_64, AnyBit, NoneOf, NonNull, OneOf, Syscall, Test, Within

AUDIT_ARCH = {X86_64: 0xC000003E, "aarch64": 0xC00000B7}
AUDIT_ARCH_I386 = 0x40000003
X32_BIT = 0x40000000


def build(arch: str) -> bytes:
    """struct sock_filter[] for ``arch``. Raises KeyError for an architecture that is not in the tables."""
    asm = bpf.Assembler()
    asm.load(bpf.ARCH)
    if arch == X86_64:
        asm.jump_if(bpf.JEQ_K, AUDIT_ARCH_I386, "i386")
    asm.jump_if(bpf.JEQ_K, AUDIT_ARCH[arch], None, "enosys")
    asm.load(bpf.NR)
    rows = [(row, number) for row in TABLE if (number := row.number(arch)) is not None]
    for row, number in rows:
        asm.jump_if(bpf.JEQ_K, number, row.name)
    if arch == X86_64:
        asm.jump_if(bpf.JGE_K, X32_BIT, "enosys")
    asm.ret(bpf.RET_ALLOW)
    for row, _ in rows:
        _row(asm, row)
    if arch == X86_64:
        _i386(asm)
    asm.label("enosys")
    asm.ret(bpf.RET_ERRNO | errno.ENOSYS)
    return asm.program()


def _row(asm: bpf.Assembler, row: Syscall) -> None:
    asm.label(row.name)
    error = bpf.RET_ERRNO | row.error
    actions = [(one, error) for one in row.refused]
    actions += [(one, bpf.RET_NOTIFY if row.handler else error) for one in row.when]
    for position, (alternative, action) in enumerate(actions):
        otherwise = f"{row.name}/{position + 1}"
        for index, test in enumerate(alternative):
            _test(asm, test, f"{row.name}/{position}/{index}", otherwise)
        asm.ret(action)
        asm.label(otherwise)
    if row.when[-1]:  # an alternative without tests always holds: nothing falls through it
        asm.ret(bpf.RET_ALLOW)


def _test(asm: bpf.Assembler, test: Test, here: str, otherwise: str) -> None:
    """Falls through when the test holds, else goes on at ``otherwise``."""
    match test:
        case OneOf(arg, values, mask):
            asm.load(bpf.arg_low(arg))
            if mask != 0xFFFFFFFF:
                asm.mask(mask)
            for value in values[:-1]:
                asm.jump_if(bpf.JEQ_K, value, f"{here}/yes")
            asm.jump_if(bpf.JEQ_K, values[-1], None, otherwise)
        case NoneOf(arg, values):
            asm.load(bpf.arg_low(arg))
            for value in values:
                asm.jump_if(bpf.JEQ_K, value, otherwise)
        case AnyBit(arg, bits):
            asm.load(bpf.arg_low(arg))
            asm.jump_if(bpf.JSET_K, bits, None, otherwise)
        case Within(arg, values):
            asm.load(bpf.arg_low(arg))
            asm.jump_if(bpf.JGE_K, values.start, None, otherwise)
            asm.jump_if(bpf.JGE_K, values.stop, otherwise)
        case NonNull(arg):
            asm.load(bpf.arg_low(arg))
            asm.jump_if(bpf.JEQ_K, 0, None, f"{here}/yes")
            asm.load(bpf.arg_high(arg))
            asm.jump_if(bpf.JEQ_K, 0, otherwise)
    asm.label(f"{here}/yes")


def _i386(asm: bpf.Assembler) -> None:
    """A 32-bit program may run, but has no network: its calls would slip past the table above."""
    asm.label("i386")
    asm.load(bpf.NR)
    for low, high in I386_REFUSED:
        after = f"i386/{low}"
        asm.jump_if(bpf.JGE_K, low, None, after)
        asm.jump_if(bpf.JGE_K, high + 1, after, "enosys")
        asm.label(after)
    asm.ret(bpf.RET_ALLOW)
