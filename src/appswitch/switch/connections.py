"""Established TCP connections with an end in an app of this node: read from the kernel, not from a table of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from appswitch import _kernel
from appswitch.address import Address
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6
from appswitch.model import ConnectionRow, Transport
from appswitch.routing.clusters import Cluster
from appswitch.routing.policy import End
from appswitch.routing.table import Member
from appswitch.switch import naming
from appswitch.switch.sockets import Socket

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

_ESTABLISHED = 1 << 1
_NOT_COUNTED = (None, None, None, None)  # a Unix socket


Backends = dict[tuple[int, int, int], Address]  # (id of cluster, app, virtual port) -> where that leads


class Established(NamedTuple):
    """One connection, at its client's end if that is an app's."""

    cookie: int
    inode: int
    client_app: int  # 0: not an app
    server_app: int  # 0: not an app
    client: Address  # virtual
    server: Address  # virtual, as the client asked for it
    transport: Transport
    actual: Address | None = None  # where it leads outside


def established(switch: Switch) -> Iterator[Established]:
    """All of them, each once."""
    yield from _unix(switch)
    for family in (AF_INET, AF_INET6):
        for cookie, inode, *_ in _kernel.dump_inet(family, 6, _ESTABLISHED):
            sock = switch.sockets.by_cookie.get(cookie)
            if sock is not None and sock.local is not None and sock.peer is not None:
                yield from _tcp(switch, sock, inode)


def _unix(switch: Switch) -> Iterator[Established]:
    for cookie, inode, _, _, _, peer, name in _kernel.dump_unix(_ESTABLISHED):
        link = naming.parse_connection(name)
        sock = switch.sockets.known(cookie)
        # Other daemons' apps, and who forges names, live in this network namespace as well.
        if link is None or not peer or (sock is None and not switch.recovered):
            continue
        # One that was held got its name before its server was chosen.
        server_app = link.server_app or (sock.peer_app if sock is not None else None) or 0
        if link.client_app in switch.apps or server_app in switch.apps:
            actual = sockaddr.decode(sock.actual) if sock is not None and sock.actual and not server_app else None
            yield Established(cookie, inode, link.client_app, server_app, link.client, link.server, "unix", actual)


def _tcp(switch: Switch, sock: Socket, inode: int) -> Iterator[Established]:
    """A TCP connection between two apps has two ends here: it is listed at its client's."""
    assert sock.local is not None
    assert sock.peer is not None
    if sock.accepted and sock.peer_app not in (None, 0):
        return
    if sock.accepted:
        yield Established(sock.cookie, inode, 0, sock.app.id, sock.peer, sock.local, "tcp")
        return
    server_app = sock.peer_app or 0
    actual = sockaddr.decode(sock.actual) if sock.actual and not server_app else None
    yield Established(sock.cookie, inode, sock.app.id, server_app, sock.local, sock.peer, "tcp", actual)


def ends(switch: Switch, one: Established, known: Backends) -> tuple[End, End, int]:
    """Both ends and the server's port as policies see them. ``known``: what was found for others in the same look."""
    cluster = switch.clusters.find(one.server)
    names = (cluster.name,) if cluster is not None else ()
    client = switch.apps.get(one.client_app)
    source = client.end(one.client.ip) if client is not None else End(0, "", (), frozenset(), one.client.ip, None, None)
    server = switch.table.members.get(one.server_app)
    if server is None:
        to = one.actual or one.server
        return source, End(0, "", names, frozenset(), to.ip, None, None), to.port
    to = one.server
    if cluster is not None:
        key = id(cluster), server.id, to.port
        to = known.get(key) or known.setdefault(key, _backend(switch, cluster, server, to))
    return source, End(server.id, server.name, names, server.labels, to.ip, None, None), to.port


def _backend(switch: Switch, cluster: Cluster, server: Member, to: Address) -> Address:
    """The address by which a vservice or a reference leads to an app, as policies were asked about it."""
    port = cluster.port.target if cluster.port is not None else to.port
    for route in cluster.routes:
        for upstream in switch.clusters.upstreams(route.backends, port, switch.table):
            if upstream.member is not None and upstream.member.id == server.id:
                return upstream.address
    own = (ip for ip in server.ips if len(ip) == len(to.ip))  # it is a backend no more
    return Address(next(own, to.ip), port)


def rows(switch: Switch) -> Iterator[ConnectionRow]:
    """As `ax get connections` shows them."""
    spliced = {(pair.info.client, pair.info.to): pair for pair in switch.splicer.rows()}
    counted = {row[0]: row[1:] for family in (AF_INET, AF_INET6) for row in _kernel.dump_tcp_info(family, _ESTABLISHED)}
    known: Backends = {}
    for one in established(switch):
        cluster = switch.clusters.find(one.server)
        sock = switch.sockets.known(one.cookie)
        attributes = dict(sock.peeked or {}) if sock is not None else {}
        _, server, port = ends(switch, one, known)
        sent, received, rtt, retransmits = counted.get(one.cookie, _NOT_COUNTED)
        if sock is not None and sock.accepted:  # the client's is not on this host
            sent, received = received, sent
        pair = spliced.get((one.client, one.server))
        if pair is not None:
            sent, received = pair.up, pair.down
        yield ConnectionRow(
            client_app=one.client_app, server_app=one.server_app, proto="tcp", client=str(one.client),
            server=str(one.server), transport=one.transport if pair is None else "splice",
            vservice=cluster.name if cluster is not None and one.client_app else "",
            backend=str(one.actual or Address(server.ip, port)) if cluster is not None else "",
            protocol=attributes.pop("protocol", ""), attributes=attributes,
            bytes_sent=sent, bytes_received=received, rtt=rtt, retransmits=retransmits,
        )  # fmt: skip
