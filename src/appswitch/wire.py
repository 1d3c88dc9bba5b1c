"""What the switch and control say to each other, over ``$AX_RUN_DIR/switch.sock``.

A stream of frames: a four-byte big-endian length, then one msgpack message. Control connects (again and
again, if the switch was restarted) and gets a `Welcome` first: the complete state. Every request carries a
``seq`` that its one reply repeats. Events come unasked. See docs/design/wire.md.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from appswitch.model import (
    AppRow,
    AppSpec,
    BackendRow,
    ConnectionRow,
    Difference,
    FlowRow,
    Protocol,
    ProxyRow,
    ServerRow,
    SocketRow,
)
from appswitch.resources import Policy, Proxy, Reference, VService

VERSION = 3
MAX_FRAME = 64 << 20  # bytes; a longer one means that the peer is not ours


Seconds = Annotated[float, msgspec.Meta(ge=0, le=1 << 32)]
"""No more than a time to live in DNS can be (RFC 2181 section 8), and so no infinity."""


class Register(msgspec.Struct, frozen=True, tag=True):
    """Make an app known. Its launcher must attach with ``token`` (32 bytes, used once) within ``expires`` seconds."""

    seq: int
    app: AppSpec
    token: bytes
    expires: Seconds = 30.0


class Forget(msgspec.Struct, frozen=True, tag=True):
    """Drop a registration whose launcher never came. A running app is forgotten when it ends, not before."""

    seq: int
    app_id: int


class Permit(msgspec.Struct, frozen=True, tag=True):
    """The app has resolved a name of one of its egress rules: these are its addresses, for ``seconds``."""

    seq: int
    app_id: int
    name: str  # as in the rule
    ips: tuple[str, ...]
    seconds: Seconds


class Configure(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """What users have configured: control sends all of it whenever it has connected, and then each change.

    A large configuration comes in several messages: ``reset`` in the first, ``done`` in the last. Until a switch has
    got the first whole one it decides nothing. An entry replaces the one of its kind and name.
    """

    seq: int
    reset: bool = False  # forget everything that was configured before
    done: bool = True
    vservices: tuple[VService, ...] = ()
    policies: tuple[Policy, ...] = ()
    references: tuple[Reference, ...] = ()
    proxies: tuple[Proxy, ...] = ()
    remove: tuple[tuple[str, str], ...] = ()  # (kind, name)


class Follow(msgspec.Struct, frozen=True, tag=True):
    """Send `FlowSeen` for every connection from now on, or no longer."""

    seq: int
    flows: bool


class Kill(msgspec.Struct, frozen=True, tag=True):
    """Close the established connections that policies now forbid. Answered when done: `Killed`."""

    seq: int


class Check(msgspec.Struct, frozen=True, tag=True):
    """Compare the switch's tables with the kernel's, between other work. Answered when done: `Checked`."""

    seq: int


class Query(msgspec.Struct, frozen=True, tag=True):
    """Ask for rows of one of: apps, servers, sockets, connections, backends, proxies, stats, log."""

    seq: int
    what: str


class Explain(msgspec.Struct, frozen=True, tag=True):
    """Ask what would become of a connection, step by step: `Explained`."""

    seq: int
    client: int  # app id
    to: str  # "10.1.0.1:80"
    protocol: Protocol = "tcp"
    uid: int | None = None
    executable: str | None = None
    attributes: dict[str, str] = {}  # of L7, as if they had been peeked


class Done(msgspec.Struct, frozen=True, tag=True):
    """The reply to all that have none of their own. ``error`` is empty on success, else a slug and its explanation."""

    seq: int
    error: str = ""
    detail: str = ""


class Rows(msgspec.Struct, frozen=True, tag=True):
    """The reply to `Query`: only the field that was asked for is filled."""

    seq: int
    apps: tuple[AppRow, ...] = ()
    servers: tuple[ServerRow, ...] = ()
    sockets: tuple[SocketRow, ...] = ()
    connections: tuple[ConnectionRow, ...] = ()
    backends: tuple[BackendRow, ...] = ()
    proxies: tuple[ProxyRow, ...] = ()
    stats: dict[str, float] = {}
    log: tuple[str, ...] = ()  # the last lines


class Checked(msgspec.Struct, frozen=True, tag=True):
    """The reply to `Check`: what differs, also when it was looked at again; and how much was looked at, by kind."""

    seq: int
    differences: tuple[Difference, ...] = ()
    looked: dict[str, int] = {}


class Killed(msgspec.Struct, frozen=True, tag=True):
    """The reply to `Kill`: the connections that were closed."""

    seq: int
    connections: tuple[ConnectionRow, ...] = ()


class Explained(msgspec.Struct, frozen=True, tag=True):
    """The reply to `Explain`: sentences in the order of the decision, and its outcome."""

    seq: int
    allowed: bool
    steps: tuple[str, ...]
    rule: str = ""  # the policy that decided, if one did
    error: str = ""  # the errno of a denial


class Welcome(msgspec.Struct, frozen=True, tag=True):
    """The first message of a connection: every app and server that the switch knows."""

    version: int
    pid: int
    apps: tuple[AppRow, ...]
    servers: tuple[ServerRow, ...]


class AppChanged(msgspec.Struct, frozen=True, tag=True):
    """An app attached."""

    row: AppRow


class AppGone(msgspec.Struct, frozen=True, tag=True):
    """An app ended, or its registration expired."""

    app_id: int


class ServerUp(msgspec.Struct, frozen=True, tag=True):
    """An app called listen(2)."""

    row: ServerRow


class ServerDown(msgspec.Struct, frozen=True, tag=True):
    """A listening socket went."""

    row: ServerRow


class FlowSeen(msgspec.Struct, frozen=True, tag=True):
    """A connection was decided. Only while somebody follows (`Follow`), but denials always."""

    row: FlowRow


class NameServer(msgspec.Struct, frozen=True):
    """Sockets in an app's own network namespace that stand for one of its `AppSpec.nameservers`.

    One packet each on ``$AX_RUN_DIR/dns.sock`` (Unix SOCK_DGRAM, control's), from the switch: this in msgpack, and by
    SCM_RIGHTS a UDP socket bound to that address and port 53, and a TCP socket that listens on the namespace's
    loopback, where connections to that address and port are led. Sent when the app attaches, and for all apps
    again when control connects to the switch; whoever gets them a second time closes the first.
    """

    app_id: int
    address: str


ToSwitch = Register | Forget | Permit | Configure | Follow | Kill | Check | Explain | Query
Reply = Done | Rows | Killed | Checked | Explained
ToControl = Reply | Welcome | AppChanged | AppGone | ServerUp | ServerDown | FlowSeen

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_to_switch: msgspec.msgpack.Decoder[ToSwitch] = msgspec.msgpack.Decoder(ToSwitch)
_to_control: msgspec.msgpack.Decoder[ToControl] = msgspec.msgpack.Decoder(ToControl)


def frame(message: ToSwitch | ToControl) -> bytes:
    """One message as it goes over the stream."""
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body


class Unframer:
    """Cuts a byte stream into frames. ``feed`` returns the complete bodies; a partial one is kept."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Raises ValueError when a frame claims more than `MAX_FRAME`."""
        self._buffer += data
        bodies: list[bytes] = []
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "big")
            if size > MAX_FRAME:
                raise ValueError(f"frame of {size} bytes")
            if len(self._buffer) < 4 + size:
                break
            bodies.append(bytes(self._buffer[4 : 4 + size]))
            del self._buffer[: 4 + size]
        return bodies


def decode_to_switch(body: bytes) -> ToSwitch:
    """Raises msgspec.MsgspecError on anything that is not such a message."""
    return _decoded(_to_switch, body)


def decode_to_control(body: bytes) -> ToControl:
    """Raises msgspec.MsgspecError on anything that is not such a message."""
    return _decoded(_to_control, body)


def _decoded(decoder: msgspec.msgpack.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except RecursionError:  # lists in lists in lists, where a field is skipped
        raise msgspec.DecodeError("nested too deeply") from None
    except UnicodeDecodeError as problem:  # which msgspec lets through
        raise msgspec.DecodeError(f"text that is none: {problem.reason}") from None
