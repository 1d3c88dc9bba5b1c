"""The filter of UDP sockets that serve, run as the kernel runs it (net/core/filter.c), on headers of IP."""

from __future__ import annotations

import struct

import pytest

from appswitch.address import ip_bytes
from appswitch.kernel import bpf
from appswitch.switch import guard

NET_OFF = 0x100000000 - 0x100000
OWN = tuple(ip_bytes(ip) for ip in ("10.0.0.1", "fd00::1"))


def header(source: str, to: str) -> bytes:
    """RFC 791 section 3.1, RFC 8200 section 3, without what a filter does not look at."""
    if ":" in to:
        return struct.pack(">IHBB", 6 << 28, 0, 17, 64) + ip_bytes(source) + ip_bytes(to)
    return struct.pack(">BBHHHBBH", 0x45, 0, 28, 0, 0, 64, 17, 0) + ip_bytes(source) + ip_bytes(to)


def takes(program: bytes, packet: bytes) -> bool:
    if not program:
        return True
    code, a, at = list(struct.iter_unpack("=HBBI", program)), 0, 0
    while True:
        instruction, yes, no, k = code[at]
        at += 1
        if instruction == bpf.LD_W_ABS:
            (a,) = struct.unpack_from(">I", packet, k - NET_OFF)
        elif instruction == bpf.ALU_AND_K:
            a &= k
        elif instruction == bpf.RET_K:
            return bool(k)
        else:
            assert instruction == bpf.JEQ_K
            at += yes if a == k else no


@pytest.mark.parametrize(
    ("bound", "source", "to", "taken"),
    [
        ("0.0.0.0", "10.0.0.2", "10.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", "127.9.9.9", True),
        ("0.0.0.0", "10.0.0.1", "10.0.0.2", False),  # its own reply to a client that has gone
        ("::", "10.0.0.2", "10.0.0.1", True),
        ("::", "10.0.0.1", "10.0.0.2", False),
        ("::", "fd00::2", "fd00::1", True),
        ("::", "::1", "::1", True),
        ("::", "fd00::1", "fd00::2", False),
        ("::", "fd00::1", "fd01::1", False),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "10.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "10.0.0.2", "127.0.0.1", False),  # a guest
        ("::1", "::1", "::1", True),
        ("::1", "fd00::2", "::1", False),
        ("10.0.0.1", "10.0.0.2", "10.0.0.1", True),
    ],
)
def test_what_comes_in(bound: str, source: str, to: str, taken: bool) -> None:
    assert takes(guard.program(ip_bytes(bound), OWN), header(source, to)) is taken


@pytest.mark.parametrize(("to", "taken"), [("fd00::1", False), ("::1", False), ("fd00::2", True), ("fd01::1", True)])
def test_errors_about_packets_to_others(to: str, taken: bool) -> None:
    quoted = header("fd00::1", to)
    assert takes(guard.of_unheard(OWN), header("fd00::2", "fd00::1") + bytes(8) + quoted) is taken


def test_an_app_without_addresses() -> None:
    program = guard.program(ip_bytes("0.0.0.0"), ())
    assert takes(program, header("127.0.0.1", "127.0.0.1"))
    assert not takes(program, header("10.0.0.1", "10.0.0.2"))
