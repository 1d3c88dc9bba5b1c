"""What a connection is about, read from its first bytes. Sans-IO: bytes in, `Peeked` out; nothing is consumed.

The bytes are a hostile program's, and the caller is the switch's loop: no function here raises for any bytes, and each
takes time in proportion to their number at most. See docs/l7.md.
"""

from __future__ import annotations

from appswitch.routing.l7 import http1, http2, memcached, mqtt, postgresql, proxy, redis, ssh, tls
from appswitch.routing.l7.peeked import UNKNOWN, IncompleteError, MalformedError, Peeked, Recognizer

__all__ = ["RECOGNIZERS", "UNKNOWN", "Peeked", "as_attributes", "peek"]

# Asked in this order. It matters where words are in several protocols: GET is HTTP's if what follows is, and "get" is
# memcached's rather than a redis command that somebody typed.
RECOGNIZERS = (
    Recognizer("http2", http2.sniff, http2.parse),
    Recognizer("tls", tls.sniff, tls.parse),
    Recognizer("http", http1.sniff, http1.parse),
    Recognizer("ssh", ssh.sniff, ssh.parse),
    Recognizer("mqtt", mqtt.sniff, mqtt.parse),
    Recognizer("postgresql", postgresql.sniff, postgresql.parse),
    Recognizer("memcached", memcached.sniff, memcached.parse),
    Recognizer("redis", redis.sniff, redis.parse),
)
# By the first byte: a recognizer that says no to it says no to whatever follows, and need not be asked again.
_BY_BYTE = tuple(tuple(one for one in RECOGNIZERS if one.sniff(bytes([byte])) is not False) for byte in range(256))
_MAY_BE_PROXIED = frozenset(byte for byte in range(256) if proxy.sniff(bytes([byte])) is not False)


def peek(data: bytes, *, final: bool) -> Peeked | None:
    """What a connection that begins with ``data`` is about.

    None: more bytes may tell more, hold on; then this is called again with all of them. An answer stays the same with
    more bytes. With ``final`` (the limit, the deadline, the end of the stream) there is one: what is known so far.
    """
    if data and data[0] not in _MAY_BE_PROXIED:
        return _recognize(data, final)
    proxied = proxy.sniff(data)
    if proxied is False:
        return _recognize(data, final)
    if not proxied:
        return UNKNOWN if final else None
    try:
        header = proxy.parse(data)
    except MalformedError:
        return UNKNOWN
    except IncompleteError:
        return Peeked("proxy", {}) if final else None
    behind = _recognize(data[header.length :], final)
    if behind is None:
        return None
    return Peeked("proxy" if behind is UNKNOWN else behind.protocol, header.attributes | behind.attributes)


def as_attributes(peeked: Peeked) -> dict[str, str]:
    """All that patterns are matched against: the attributes, and the protocol as one of them."""
    return {"protocol": peeked.protocol, **peeked.attributes}


def _recognize(data: bytes, final: bool) -> Peeked | None:
    for protocol, sniff, parse in _BY_BYTE[data[0]] if data else RECOGNIZERS:
        sniffed = sniff(data)
        if sniffed is False or (final and sniffed is None):
            continue
        if sniffed is None:
            return None
        try:
            return parse(data, final)
        except MalformedError:
            continue
        except IncompleteError:
            return Peeked(protocol, {}) if final else None
    return UNKNOWN
