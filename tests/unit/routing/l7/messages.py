"""First bytes that tests of several modules share: valid messages, and ways to spoil them."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Iterable, Sequence

import h2.config
import h2.connection
from hypothesis import strategies as st

from appswitch.routing.l7 import Peeked
from appswitch.routing.l7.http2 import PREFACE
from appswitch.routing.l7.proxy import SIGNATURE


def vector(size: int, content: bytes) -> bytes:
    """Bytes with their length before them, in so many bytes."""
    return len(content).to_bytes(size, "big") + content


# --- HTTP/2


def h2_client(headers: Iterable[tuple[str, str]], **frame: int) -> bytes:
    """What the h2 library sends: preface, SETTINGS, HEADERS; ``priority_weight`` and the like go into HEADERS."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    connection.send_headers(1, list(headers), **frame)
    return connection.data_to_send()


def h2_frame(kind: int, body: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack("!HBBBL", len(body) >> 8, len(body) & 0xFF, kind, flags, stream) + body


DATA, HEADERS, SETTINGS, CONTINUATION = 0, 1, 4, 9
SETTINGS_FRAME = PREFACE + h2_frame(SETTINGS)

H2_GET = [(":method", "GET"), (":path", "/a?b=c"), (":scheme", "http"), (":authority", "web:80"), ("x-canary", "1")]
GRPC = [
    (":method", "POST"),
    (":path", "/helloworld.Greeter/SayHello"),
    (":scheme", "http"),
    (":authority", "greeter"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]

# --- TLS


def extension(kind: int, content: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, content)


def sni(name: bytes) -> bytes:
    return extension(0, vector(2, b"\0" + vector(2, name)))


def alpn(*names: bytes) -> bytes:
    return extension(16, vector(2, b"".join(vector(1, name) for name in names)))


def numbers(of: Sequence[int]) -> bytes:
    return struct.pack(f"!{len(of)}H", *of)


def versions(*of: int) -> bytes:
    return extension(43, vector(1, numbers(of)))


def client_hello(
    extensions: Sequence[bytes] | None = (), ciphers: Sequence[int] = (0x1301,), version: int = 0x0303
) -> bytes:
    """The handshake message."""
    body = version.to_bytes(2, "big") + bytes(32) + vector(1, b"") + vector(2, numbers(ciphers)) + vector(1, b"\0")
    if extensions is not None:
        body += vector(2, b"".join(extensions))
    return b"\1" + vector(3, body)


def records(message: bytes, size: int = 1 << 14) -> bytes:
    """A handshake message in records of so many bytes."""
    return b"".join(b"\x16\3\1" + vector(2, message[at : at + size]) for at in range(0, len(message), size))


def python_hello(name: str, *protocols: str) -> bytes:
    """What Python's ssl sends."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(protocols)
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without a server")


# --- others


def resp(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def memcached(opcode: int, key: bytes = b"", extras: bytes = b"", value: bytes = b"") -> bytes:
    body = extras + key + value
    return struct.pack("!BBHBBHLLQ", 0x80, opcode, len(key), len(extras), 0, 0, len(body), 7, 0) + body


def startup(version: int = 3 << 16, **parameters: str) -> bytes:
    words = b"".join(f"{name}\0{value}\0".encode() for name, value in parameters.items())
    return vector_with_itself(version.to_bytes(4, "big") + words + b"\0")


def vector_with_itself(content: bytes) -> bytes:
    """As PostgreSQL counts: the length counts itself."""
    return (len(content) + 4).to_bytes(4, "big") + content


def mqtt_connect(
    payload: bytes, flags: int = 2, level: int = 4, name: bytes = b"MQTT", properties: bytes = b""
) -> bytes:
    """Payloads below 100 bytes, so that the length is one byte."""
    return b"\x10" + vector(1, vector(2, name) + bytes((level, flags)) + b"\0\x3c" + properties + payload)


def proxy_v2(command: int, family: int, content: bytes) -> bytes:
    return SIGNATURE + bytes((command, family)) + vector(2, content)


PROXY_V1 = b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 80\r\n"
PROXIED = {"proxy.version": "1", "proxy.source": "192.0.2.1:4711", "proxy.destination": "198.51.100.7:80"}
REQUEST = b"GET /a?b=c HTTP/1.1\r\nHost: Web.Example:8080\r\nX-Canary: 1\r\n\r\n"
REQUESTED = {
    "http.method": "GET",
    "http.host": "web.example",
    "http.authority": "Web.Example:8080",
    "http.path": "/a",
    "http.query": "b=c",
    "http.version": "1.1",
    "http.header.host": "Web.Example:8080",
    "http.header.x-canary": "1",
}

# What each client says until it is known what it is about: not one byte more is needed. With what is read from it.
WHOLE: dict[str, tuple[bytes, Peeked]] = {
    "http": (REQUEST, Peeked("http", REQUESTED)),
    "http, LF alone": (REQUEST.replace(b"\r\n", b"\n"), Peeked("http", REQUESTED)),
    "http after empty lines": (b"\r\n\r\n" + REQUEST, Peeked("http", REQUESTED)),
    "http without headers": (
        b"HEAD / HTTP/1.0\r\n\r\n",
        Peeked("http", {"http.method": "HEAD", "http.path": "/", "http.version": "1.0"}),
    ),
    "http 0.9": (b"GET /a\r\n", Peeked("http", {"http.method": "GET", "http.path": "/a", "http.version": "0.9"})),
    "tls": (
        records(client_hello([sni(b"Web.Example"), alpn(b"h2", b"http/1.1"), versions(0x0A0A, 0x0304, 0x0303)])),
        Peeked(
            "tls",
            {
                "tls.sni": "web.example",
                "tls.alpn": "h2,http/1.1",
                "tls.version": "1.3",
                "tls.ja4": "t13d0103h2_0f2cb44170f4_b9a491fefe05",
            },
        ),
    ),
    "redis": (b"*3\r\n$3\r\nset\r\n$5\r\nkey:1", Peeked("redis", {"redis.command": "SET", "redis.key": "key:1"})),
    "redis without a key": (resp(b"PING")[:-2], Peeked("redis", {"redis.command": "PING"})),
    "redis, inline": (b"flushall\r\n", Peeked("redis", {"redis.command": "FLUSHALL"})),
    "memcached": (b"get a b\r\n", Peeked("memcached", {"memcached.command": "get", "memcached.key": "a"})),
    "memcached, meta": (b"mg a v\r\n", Peeked("memcached", {"memcached.command": "mg", "memcached.key": "a"})),
    "memcached, binary": (
        memcached(0x01, b"a", bytes(8)),
        Peeked("memcached", {"memcached.command": "set", "memcached.key": "a"}),
    ),
    "postgresql": (
        startup(user="joe", application_name="psql"),
        Peeked(
            "postgresql",
            {"postgresql.user": "joe", "postgresql.database": "joe", "postgresql.application_name": "psql"},
        ),
    ),
    "postgresql, ssl": (vector_with_itself(b"\x04\xd2\x16\x2f"), Peeked("postgresql", {"postgresql.ssl": "requested"})),
    "ssh": (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", Peeked("ssh", {"ssh.software": "OpenSSH_9.2p1"})),
    "mqtt": (
        mqtt_connect(vector(2, b"sensor") + vector(2, b"joe"), flags=0xC2),
        Peeked("mqtt", {"mqtt.client_id": "sensor", "mqtt.user": "joe"}),
    ),
    "proxy": (PROXY_V1 + REQUEST, Peeked("http", PROXIED | REQUESTED)),
    "proxy 2": (
        proxy_v2(0x21, 0x11, bytes((192, 0, 2, 1, 198, 51, 100, 7)) + struct.pack("!HH", 4711, 80))
        + resp(b"PING")[:-2],
        Peeked("redis", PROXIED | {"proxy.version": "2", "redis.command": "PING"}),
    ),
}
# The same, where the library that writes it decides about some of the bytes.
WRITTEN = {
    "python": python_hello("web.example", "h2"),
    "h2": h2_client(H2_GET),
    "h2 with priority": h2_client(H2_GET, priority_weight=15, priority_depends_on=3),
    "grpc": h2_client(GRPC),
}

valid = st.sampled_from([message for message, _ in WHOLE.values()] + list(WRITTEN.values()))


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A valid message with some of its bytes changed, lost, repeated, or put in; perhaps another one behind it."""
    message = bytearray(draw(valid))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(message)))
        stop = draw(st.integers(start, min(len(message), start + 16)))
        how = draw(st.sampled_from(["lose", "repeat", "replace", "flip"]))
        if how == "lose":
            del message[start:stop]
        elif how == "repeat":
            message[start:start] = message[start:stop]
        elif how == "replace":
            message[start:stop] = draw(st.binary(max_size=16))
        elif start < len(message):
            message[start] ^= 1 << draw(st.integers(0, 7))
    return bytes(message) + draw(st.one_of(st.just(b""), valid))
