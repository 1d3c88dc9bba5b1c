"""Classic BPF for seccomp(2): an assembler with labels, as small as the filter needs it."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

LD_W_ABS, ALU_AND_K, JEQ_K, JGE_K, JSET_K, JA, RET_K = 0x20, 0x54, 0x15, 0x35, 0x45, 0x05, 0x06
RET_ALLOW, RET_NOTIFY, RET_ERRNO = 0x7FFF0000, 0x7FC00000, 0x00050000
NR, ARCH = 0, 4  # offsets in struct seccomp_data


def arg_low(index: int) -> int:
    """Offset of the low word of an argument (little endian, as both our architectures are)."""
    return 16 + 8 * index


def arg_high(index: int) -> int:
    """Offset of the high word of an argument."""
    return arg_low(index) + 4


@dataclass
class Assembler:
    """Instructions with symbolic targets; a target of None falls through to the next instruction."""

    _code: list[tuple[int, str | None, str | None, int]] = field(default_factory=list)
    _labels: dict[str, int] = field(default_factory=dict)

    def load(self, offset: int) -> None:
        """A = the word at ``offset`` of struct seccomp_data."""
        self._code.append((LD_W_ABS, None, None, offset))

    def mask(self, bits: int) -> None:
        """A &= bits."""
        self._code.append((ALU_AND_K, None, None, bits))

    def jump_if(self, code: int, value: int, yes: str | None, no: str | None = None) -> None:
        """Compare A (JEQ_K, JGE_K, JSET_K) and go on at a label."""
        self._code.append((code, yes, no, value))

    def ret(self, action: int) -> None:
        """End with a seccomp action."""
        self._code.append((RET_K, None, None, action))

    def label(self, name: str) -> None:
        """Name the next instruction."""
        self._labels[name] = len(self._code)

    def program(self) -> bytes:
        """struct sock_filter[]: eight bytes an instruction. Raises ValueError for a jump that is too far or unknown."""
        out = bytearray()
        for position, (code, yes, no, k) in enumerate(self._code):
            out += struct.pack("=HBBI", code, self._distance(position, yes), self._distance(position, no), k)
        return bytes(out)

    def _distance(self, position: int, label: str | None) -> int:
        if label is None:
            return 0
        distance = self._labels[label] - position - 1
        if not 0 <= distance <= 255:
            raise ValueError(f"jump to {label} over {distance} instructions")
        return distance
