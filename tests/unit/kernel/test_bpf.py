"""The assembler, instruction by instruction: linux/filter.h, linux/seccomp.h."""

from __future__ import annotations

import struct

import pytest

from appswitch.kernel import bpf


def instructions(program: bytes) -> list[tuple[int, int, int, int]]:
    return list(struct.iter_unpack("=HBBI", program))


def test_plain_instructions() -> None:
    asm = bpf.Assembler()
    asm.load(bpf.ARCH)
    asm.mask(0xF)
    asm.ret(bpf.RET_ERRNO | 38)
    assert instructions(asm.program()) == [(0x20, 0, 0, 4), (0x54, 0, 0, 0xF), (0x06, 0, 0, 0x00050026)]


def test_jumps_count_from_the_next_instruction() -> None:
    asm = bpf.Assembler()
    asm.jump_if(bpf.JEQ_K, 7, "end", None)
    asm.jump_if(bpf.JSET_K, 8, None, "end")
    asm.ret(bpf.RET_ALLOW)
    asm.label("end")
    asm.ret(bpf.RET_NOTIFY)
    assert [(code, yes, no) for code, yes, no, _ in instructions(asm.program())[:2]] == [(0x15, 2, 0), (0x45, 0, 1)]


def test_an_empty_program() -> None:
    assert bpf.Assembler().program() == b""


def distant(between: int) -> bpf.Assembler:
    asm = bpf.Assembler()
    asm.jump_if(bpf.JGE_K, 1, "far")
    for _ in range(between):
        asm.ret(bpf.RET_ALLOW)
    asm.label("far")
    asm.ret(bpf.RET_NOTIFY)
    return asm


def test_a_jump_reaches_255_instructions_and_no_further() -> None:
    assert instructions(distant(255).program())[0] == (0x35, 255, 0, 1)
    with pytest.raises(ValueError, match="jump to far over 256 instructions"):
        distant(256).program()


def test_there_is_no_way_back() -> None:
    asm = bpf.Assembler()
    asm.label("start")
    asm.jump_if(bpf.JEQ_K, 1, "start")
    with pytest.raises(ValueError, match="jump to start over -1 instructions"):
        asm.program()


@pytest.mark.parametrize("index", range(6))
def test_arguments_lie_as_in_struct_seccomp_data(index: int) -> None:
    data = struct.pack("=iIQ6Q", 1, 2, 3, *(n << 32 | n + 100 for n in range(6)))
    assert struct.unpack_from("=I", data, bpf.arg_low(index)) == (index + 100,)
    assert struct.unpack_from("=I", data, bpf.arg_high(index)) == (index,)
    assert struct.unpack_from("=iI", data, bpf.NR) == (1, 2)
