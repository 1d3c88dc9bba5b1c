"""What takes bytes from outside and must not break on any: `test_targets.py` and `make fuzz` go through these.

A target returns nothing; whatever it raises is a finding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec

from appswitch import wire
from appswitch.attributes import PROTOCOLS, check
from appswitch.delegate import messages, metadata, proxyprotocol
from appswitch.delegate.errors import IncompleteError, MalformedError
from appswitch.kernel import sockaddr
from appswitch.routing.l7 import as_attributes, peek
from appswitch.switch import naming
from appswitch.switch.udp import without_source

Target = Callable[[bytes], None]


def peeked(data: bytes) -> None:
    """First bytes: an answer that is there before the last byte is the same with it."""
    early, known = peek(data[: len(data) // 2], final=False), peek(data, final=False)
    found = peek(data, final=True)
    assert found is not None
    assert early in (None, found)
    assert known in (None, found)
    assert found.protocol in PROTOCOLS
    for name, value in as_attributes(found).items():
        check(name)
        assert value.isprintable()
        value.encode()


def proxy_header(data: bytes) -> None:
    """PROXY, both versions: what was decoded can be encoded, and is the same again."""
    with contextlib.suppress(MalformedError, IncompleteError):
        header, length = proxyprotocol.decode_prefix(data)
        assert 0 < length <= len(data)
        assert proxyprotocol.decode_prefix(data[:length]) == (header, length)
        kept = header._replace(tlvs=tuple(one for one in header.tlvs if one.type != proxyprotocol.Type.CRC32C))
        assert proxyprotocol.decode(proxyprotocol.encode(kept)) == kept


def delegation(data: bytes) -> None:
    """Messages of the delegation endpoint, and what is known of a connection."""
    for decode in (messages.decode_to_daemon, messages.decode_from_daemon):
        for count in range(3):
            with contextlib.suppress(MalformedError):
                decode(data, count)
    with contextlib.suppress(MalformedError):
        known = metadata.decode(data)
        assert metadata.decode(metadata.encode(known)) == known


def channel(data: bytes) -> None:
    """What control and the switch say to each other."""
    with contextlib.suppress(ValueError):
        for body in wire.Unframer().feed(data):
            for decode in (wire.decode_to_switch, wire.decode_to_control):
                with contextlib.suppress(msgspec.MsgspecError):
                    assert isinstance(decode(body), msgspec.Struct)
    for decode in (wire.decode_to_switch, wire.decode_to_control):
        with contextlib.suppress(msgspec.MsgspecError):
            assert isinstance(decode(data), msgspec.Struct)


def names(data: bytes) -> None:
    """Names of Unix sockets, which anybody on the host may have chosen: what is taken for one of ours is one."""
    naming.parse_connection(data)
    naming.parse_listener(data)
    if len(data) >= 2:
        sockaddr.unix_name(data)
        sockaddr.family_of(data)


def addresses(data: bytes) -> None:
    """Socket addresses as they lie in programs' memory, and control messages (cmsg(3))."""
    if len(data) >= sockaddr.LEN6_MIN or (len(data) >= sockaddr.LEN4 and sockaddr.family_of(data) == sockaddr.AF_INET):
        found = sockaddr.decode(data)
        for family in (sockaddr.AF_INET, sockaddr.AF_INET6):
            sockaddr.encode(family, found)
        assert sockaddr.decode(sockaddr.encode(sockaddr.AF_INET6, found)) == found
    kept = without_source(data)
    assert len(kept) <= len(data) + 7
    assert without_source(kept) == kept


TARGETS: dict[str, Target] = {
    one.__name__: one for one in (peeked, proxy_header, delegation, channel, names, addresses)
}
