"""What may arrive at a UDP socket that serves. socket(7), SO_ATTACH_FILTER.

Clients of an app live in its own namespace (switch/udp.py), and any address is local there. So a socket that is bound
to the wildcard address would also take what is meant for somebody else, such as a reply of its own to a client that has
gone; and a client could reach what the app serves on its loopback only. The kernel keeps both out.
"""

from __future__ import annotations

from collections.abc import Sequence

from appswitch.address import is_any, is_loopback
from appswitch.kernel import bpf

_NET = 0x100000000 - 0x100000  # SKF_NET_OFF: offsets from the IP header
_TAKE, _DROP = 0xFFFFFFFF, 0
_SOURCE4, _TO4, _SOURCE6, _TO6 = 12, 16, 8, 24
_QUOTED6 = 48  # where the packet that an error is about begins: RFC 4443 section 3.1


def program(bound: bytes, own: Sequence[bytes]) -> bytes:
    """struct sock_filter[] for a socket bound to the address ``bound``, of an app with the addresses ``own``.

    Empty where the address itself keeps others out.
    """
    if not is_any(bound) and not is_loopback(bound):
        return b""
    at4, at6 = (_TO4, _TO6) if is_any(bound) else (_SOURCE4, _SOURCE6)
    return _program(at4, at6, own, _TAKE, _DROP)


def of_unheard(own: Sequence[bytes]) -> bytes:
    """For a socket of ICMPv6: of errors only those about packets to addresses that are not the app's."""
    return _program(_TO4, _QUOTED6 + _TO6, own, _DROP, _TAKE)


def _program(at4: int, at6: int, own: Sequence[bytes], inside: int, outside: int) -> bytes:
    """Looks at the address at an offset: is it one of the app's, loopback included, or outside?"""
    asm = bpf.Assembler()
    asm.load(_NET)
    asm.mask(0xF0000000)
    asm.jump_if(bpf.JEQ_K, 0x40000000, None, "version 6")
    asm.load(_NET + at4)
    for ip in own:
        if len(ip) == 4:
            asm.jump_if(bpf.JEQ_K, int.from_bytes(ip, "big"), "inside")
    asm.mask(0xFF000000)
    asm.jump_if(bpf.JEQ_K, 0x7F000000, "inside", "outside")
    asm.label("version 6")
    for number, ip in enumerate([one for one in own if len(one) == 16] + [bytes(15) + b"\1"]):
        for word in range(0, 16, 4):
            asm.load(_NET + at6 + word)
            asm.jump_if(bpf.JEQ_K, int.from_bytes(ip[word : word + 4], "big"), None, f"not {number}")
        asm.ret(inside)
        asm.label(f"not {number}")
    asm.label("outside")
    asm.ret(outside)
    asm.label("inside")
    asm.ret(inside)
    return asm.program()
