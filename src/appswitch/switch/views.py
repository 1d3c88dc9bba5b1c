"""What the switch shows of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appswitch import _kernel
from appswitch.model import ConnectionRow, SocketRow
from appswitch.switch import connections
from appswitch.switch.sockets import CONNECTED, FINISHING, LISTENING, Socket

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

_ALL_STATES = 0xFFF


def socket_rows(switch: Switch) -> tuple[SocketRow, ...]:
    """As `ax get sockets` shows them."""
    inodes = {row[0]: row[1] for row in _kernel.dump_unix(_ALL_STATES)}
    rows = tuple(_socket_row(switch, s, inodes.get(s.cookie, 0)) for s in switch.sockets.by_cookie.values())
    switch.datagrams.sweep_for_view()
    return rows + switch.datagrams.socket_rows()


def _socket_row(switch: Switch, sock: Socket, inode: int) -> SocketRow:
    flags = {
        "listening": sock.phase == LISTENING,
        "connected": sock.phase in (CONNECTED, FINISHING),
        "bound": sock.bound is not None,
        "reuseaddr": sock.reuseaddr,
        "reuseport": sock.reuseport,
        "v6only": sock.v6only,
        "unix": sock.unix,
        "tcp": not sock.unix,
    }
    service = switch.services.by_id.get(sock.service)
    return SocketRow(
        id=sock.cookie, app_id=sock.app.id, inode=inode, proto="tcp",
        flags=tuple(flag for flag, on in flags.items() if on),
        bind_ip=str(sock.bound) if sock.bound else "", backlog=service.backlog if service else 0,
    )  # fmt: skip


def connection_rows(switch: Switch) -> tuple[ConnectionRow, ...]:
    """As `ax get connections` shows them."""
    switch.datagrams.sweep_for_view()
    return (*connections.rows(switch), *switch.datagrams.connection_rows())


def stats(switch: Switch) -> dict[str, float]:
    """Sizes of the tables, and calls and nanoseconds by system call."""
    switch.reflexes.settle()
    sizes = {
        "apps": len(switch.apps),
        "services": len(switch.services.by_id),
        "sockets": len(switch.sockets.by_cookie),
        "parked": len(switch.parking),
        "datagram_sockets": len(switch.datagrams.by_cookie),
        "datagram_peers": len(switch.relay),
        "datagrams_carried": switch.relay.carried,
        "vservices": len(switch.clusters.by_name),
        "policies": len(switch.policies),
        "held": len(switch.peeking),
        "held_total": switch.peeking.seen,
        "waiting": len(switch.waiting),
        "splices": len(switch.splicer),
        "spliced": switch.splicer.spliced_total,
        "spliced_bytes": switch.splicer.spliced_bytes,
    }
    at_once = {name: float(count) for name, count in switch.loop.reflex.served().items()}
    flows = {f"flows.{verdict}": float(count) for verdict, count in switch.flowlog.counts.items()}
    calls = {f"calls.{name}": count + at_once.get(name, 0) for name, count in switch.dispatch.counts.items()}
    times = {f"nanoseconds.{name}": ns for name, ns in switch.dispatch.nanoseconds.items()}
    undecided = {f"at_once.{name}": count for name, count in at_once.items()}
    undecided["at_once.held"] = float(switch.loop.reflex.led)
    return {**sizes, **flows, **calls, **undecided, **times}
