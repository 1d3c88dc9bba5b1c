"""An app as the switch knows it: what it asked for, its notification descriptor, the ports it has bound."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from appswitch._kernel import Fd, Ports
from appswitch.address import Address, ip_bytes, loopback_like
from appswitch.model import AppPhase, AppRow, AppSpec
from appswitch.parent import started
from appswitch.routing.egress import allows, compile_rules
from appswitch.routing.policy import End
from appswitch.routing.table import Labels, Member
from appswitch.switch.netns import Netns
from appswitch.switch.permits import Permits

if TYPE_CHECKING:
    from appswitch.switch.sockets import Socket

EPHEMERAL_LOW, EPHEMERAL_HIGH = 32768, 60999  # net.ipv4.ip_local_port_range
ENDS = 16  # addresses of an app that are remembered as policies see them


class Origin(NamedTuple):
    """The process that an app began as, which may have ended before the app."""

    pid: int = 0  # 0: it has ended, or nobody knows
    started: str = ""  # see `parent.started`
    attached: float = 0.0  # the time


def current(origin: Origin) -> Origin:
    """The same, without a pid that is another process' by now."""
    alive = origin.started != "" and started(origin.pid) == origin.started
    return origin if alive else Origin(attached=origin.attached)


class App:
    """One attached app. Owns its notification descriptor."""

    __slots__ = (
        "_ends", "attached", "bound", "ended", "epoll_generation", "epolls", "guests", "home",
        "host_ports", "id", "ips", "labels", "listener", "nameservers", "next_datagram", "permits", "pid", "ports",
        "rules", "spec", "stand_ins", "started",
    )  # fmt: skip

    def __init__(self, spec: AppSpec, listener: Fd, origin: Origin, home: Netns | None = None) -> None:
        self.spec = spec
        self.id = spec.id
        self.listener = listener
        self.pid, self.started, self.attached = origin
        self.ended = False  # its last process has gone; others may still hold its sockets
        self.ips: tuple[bytes, ...] = tuple(ip_bytes(ip) for ip in spec.ips)
        self.labels: Labels = frozenset(spec.labels.items())
        self.home = home  # its network namespace; None: the host's
        self.guests: Counter[Address] = Counter()  # sockets of others in there, by their addresses
        self.stand_ins: Counter[tuple[Address, int]] = Counter()  # see switch/relay.py: for a peer, of an own port
        self.nameservers: dict[bytes, Address] = {}  # at home, with where they listen for TCP
        self.host_ports = {port.internal: port.host_port for port in spec.host_ports}
        self.rules = compile_rules(spec.egress)
        self.permits = Permits()
        self._ends: dict[bytes, End] = {}
        self.next_datagram = 0  # where the last UDP socket went: see switch/udp.py
        self.bound: dict[int, list[Socket]] = {}  # port -> sockets that called bind(2) or listen(2) for it
        self.epoll_generation = 0  # counts epoll_create(2)s
        self.epolls: dict[int, tuple[int, list[int]]] = {}  # process -> (generation, numbers of its epolls)
        # Apps that share an address start at different ports, so that a server seldom sees one twice.
        first = EPHEMERAL_LOW + spec.id % (EPHEMERAL_HIGH - EPHEMERAL_LOW)
        self.ports = Ports(EPHEMERAL_LOW, EPHEMERAL_HIGH, first, self.bound)

    def is_process(self, pid: int) -> bool:
        """Whether it began as this process: a pid is used again."""
        return pid == self.pid != 0 and started(pid) == self.started

    def row(self) -> AppRow:
        """As `ax get apps` shows it."""
        return AppRow(app=self.spec, phase=AppPhase.RUNNING, pid=self.pid, attached=self.attached)

    def ephemeral_port(self) -> int:
        """The next port of ip_local_port_range that the app has not bound. RFC 6056, algorithm 1 without the dice."""
        return self.ports.take()

    def source_for(self, to: bytes, node: dict[int, bytes]) -> bytes:
        """The app's own address towards ``to``: of the same family; the node's where it has none."""
        size = len(to)
        for ip in self.ips:
            if len(ip) == size:
                return ip
        return node.get(size) or loopback_like(to)

    def member(self) -> Member:
        """As selectors of backends and policies see it."""
        return Member(self.id, self.spec.name or "", self.ips, self.labels, self.spec.proxy or "", self.spec.uid)

    def end(self, ip: bytes) -> End:
        """One end of a connection, at one of the app's addresses, as policies see it."""
        end = self._ends.get(ip)
        if end is None:
            end = End(self.id, self.spec.name or "", (), self.labels, ip, None, None)
            if len(self._ends) < ENDS:
                self._ends[ip] = end
        return end

    def welcome(self, guest: Address) -> None:
        """A socket of another app lives in its namespace from now on."""
        self.guests[guest] += 1

    def dismiss(self, guest: Address) -> None:
        """It is gone."""
        self.guests[guest] -= 1
        if self.guests[guest] <= 0:
            del self.guests[guest]

    def may_reach(self, ip: bytes) -> bool:
        """Whether its egress rules let it go to an address outside."""
        return allows(self.rules, ip, self.permits.names(ip) if self.rules.names else frozenset())

    def seen_as(self, ip: bytes, bound: bytes) -> bytes:
        """What a server bound to ``bound`` sees of the app's ``ip``: an IPv4 server its IPv4 address, if it has one."""
        if len(bound) == 4 and len(ip) == 16:
            return next((own for own in self.ips if len(own) == 4), ip)
        return ip

    def has(self, ip: bytes) -> bool:
        """Whether it may bind ``ip`` as its own, loopback and wildcard aside."""
        return ip in self.ips
