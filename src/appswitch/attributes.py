"""What may be known of a connection's first bytes, by name: the one table. A leaf: imports nothing of ours.

`routing.l7` fills the attributes, policies and routes name them (`resources.L7Match`), docs/l7.md describes them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import NamedTuple


class Attribute(NamedTuple):
    """One name, what has it, and what its value is."""

    name: str
    protocols: tuple[str, ...]
    meaning: str


PROTOCOLS = {
    "http": "HTTP/1.x (and 0.9)",
    "http2": "HTTP/2 with prior knowledge",
    "grpc": "HTTP/2 whose first request is gRPC's",
    "tls": "TLS, whatever is inside",
    "redis": "redis, RESP2 and RESP3",
    "memcached": "memcached, text, meta and binary commands",
    "postgresql": "PostgreSQL",
    "ssh": "SSH",
    "mqtt": "MQTT 3.1, 3.1.1, 5.0",
    "proxy": "a PROXY header, and nothing that is recognized behind it",
    "unknown": "nothing that is recognized",
}

_HTTP = ("http", "http2", "grpc")
_ALL = tuple(PROTOCOLS)
HEADER = "http.header."  # and the header's name in lower case

ATTRIBUTES = (
    Attribute("protocol", _ALL, "the protocol's name, as in the first table"),
    Attribute("http.method", _HTTP, "as it was sent: `GET`"),
    Attribute("http.host", _HTTP, "the host that the request is for: lower case, without port, brackets and last dot"),
    Attribute("http.authority", _HTTP, "the same as it was sent, with the port; without user and password"),
    Attribute("http.path", _HTTP, "without the query; percent-encoding and dots as they were sent"),
    Attribute("http.query", _HTTP, "what follows the first `?`"),
    Attribute("http.version", _HTTP, "`0.9`, `1.0`, `1.1`, `2`"),
    Attribute(HEADER + "NAME", _HTTP, "a header; its name in lower case, several of one name joined by `, `"),
    Attribute("grpc.service", ("grpc",), "with its package: `helloworld.Greeter`"),
    Attribute("grpc.method", ("grpc",), "`SayHello`"),
    Attribute("tls.sni", ("tls",), "the server name: lower case, without a last dot"),
    Attribute("tls.alpn", ("tls",), "the protocols inside that the client offers, joined by commas: `h2,http/1.1`"),
    Attribute("tls.version", ("tls",), "the highest that the client offers: `ssl3`, `1.0` to `1.3`"),
    Attribute("tls.ja4", ("tls",), "JA4, the fingerprint of the client's software"),
    Attribute("redis.command", ("redis",), "upper case"),
    Attribute("redis.subcommand", ("redis",), "upper case, of commands that have them: `SET` of `CONFIG SET`"),
    Attribute("redis.key", ("redis",), "the first argument, where that is a key"),
    Attribute("redis.user", ("redis",), "whom `AUTH` or `HELLO` names; `default` where `AUTH` names nobody"),
    Attribute("memcached.command", ("memcached",), "lower case; the text command's name for binary ones, too"),
    Attribute("memcached.key", ("memcached",), "the first key"),
    Attribute("postgresql.user", ("postgresql",), "who connects"),
    Attribute("postgresql.database", ("postgresql",), "to which database; by default it is named like the user"),
    Attribute("postgresql.application_name", ("postgresql",), "what the client calls itself"),
    Attribute(
        "postgresql.ssl", ("postgresql",), "`requested`, by SSLRequest or GSSENCRequest; nothing else is known then"
    ),
    Attribute("postgresql.cancel", ("postgresql",), "`requested`: the connection only cancels another one's query"),
    Attribute("ssh.software", ("ssh",), "the client's: `OpenSSH_9.2p1`"),
    Attribute("mqtt.client_id", ("mqtt",), "which client it is"),
    Attribute("mqtt.user", ("mqtt",), "who connects"),
    Attribute("proxy.version", _ALL, "`1`, `2`: of the PROXY header before everything else"),
    Attribute("proxy.source", _ALL, "the client that the PROXY header names: `192.0.2.1:4711`, `[2001:db8::1]:4711`"),
    Attribute("proxy.destination", _ALL, "the address that it connected to"),
)

MATCHABLE = frozenset(attribute.name for attribute in ATTRIBUTES if not attribute.name.startswith(HEADER))
"""All that may be named in a match, but for the open family `HEADER`."""

_PRIVATE = (HEADER, "http.query")

_SERVER_FIRST = {
    "ftp": "FTP",
    "imap": "IMAP",
    "mariadb": "MariaDB",
    "mysql": "MySQL",
    "pop3": "POP3",
    "smtp": "SMTP",
    "vnc": "VNC",
}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]{1,128}")  # RFC 9110 section 5.6.2, in lower case


def check(name: str) -> None:
    """Raises ValueError, with a sentence that helps, for a name that is no attribute's."""
    if name in MATCHABLE:
        return
    if name.startswith(HEADER):
        _check_header(name)
        return
    family, _, rest = name.lower().partition(".")
    if family in _SERVER_FIRST:
        raise ValueError(
            f"{name!r}: the server speaks first in {_SERVER_FIRST[family]}, "
            "so nothing can be read before a backend is chosen"
        )
    raise ValueError(f"{name!r} is not an attribute: {_suggestion(name.lower(), family, rest)}")


def shown(attributes: Mapping[str, str]) -> dict[str, str]:
    """The attributes that may leave the switch: without headers and queries, which hold credentials."""
    return {name: value for name, value in attributes.items() if not name.startswith(_PRIVATE)}


def _check_header(name: str) -> None:
    header = name.removeprefix(HEADER)
    if _TOKEN.fullmatch(header):
        return
    if _TOKEN.fullmatch(header.lower()):
        raise ValueError(f"{name!r}: headers are named in lower case: {name.lower()}")
    raise ValueError(f"{name!r} does not end in a header's name: give one such as {HEADER}x-canary")


def _suggestion(name: str, family: str, rest: str) -> str:
    kin = sorted(known for known in MATCHABLE if known.startswith(family + "."))
    headers = [HEADER + rest.rpartition(".")[2]] if "header" in rest else []
    near = difflib.get_close_matches(name, [*(kin or sorted(MATCHABLE)), *headers], 1)
    if near:
        return f"did you mean {near[0]}?"
    return f"there are {', '.join(kin)}" if kin else "docs/l7.md lists them, such as http.path, tls.sni, redis.command"
