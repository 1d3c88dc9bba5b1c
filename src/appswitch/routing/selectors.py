"""Which ends and connections a policy is about: `resources.Policy`, compiled."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import NamedTuple

from appswitch.address import ip_text
from appswitch.model import Protocol
from appswitch.resources import L7Match, Pattern, Policy, PortRange, Selector, matches
from appswitch.routing.patterns import Tests, compiled, hold
from appswitch.routing.table import Labels

Rank = tuple[int, str]
Network = tuple[int, int, int]  # bytes of an address, how many bits do not count, the others as a number


class End(NamedTuple):
    """Who calls, or who is called. All but the first and the last two are its *identity*: what selectors look at.

    What is outside has an address, and nothing else.
    """

    app_id: int  # 0: outside
    name: str | None
    vservices: tuple[str, ...]  # by which it was addressed; nothing for a client
    labels: Labels
    ip: bytes  # virtual, or outside; unmapped (`address.unmap`)
    uid: int | None = None  # of the process that calls; None: not known, and then no uid matches
    executable: str | None = None  # the path of its program; None: not known, and then no pattern matches

    @property
    def names(self) -> tuple[str, ...]:
        """What ``Selector.names`` is about."""
        return (self.name, *self.vservices) if self.name else self.vservices


class Connection(NamedTuple):
    """What is decided about. ``port`` is where the server listens: of a vservice its backend's."""

    client: End
    server: End
    port: int
    protocol: Protocol


class Condition(NamedTuple):
    """One selector, compiled."""

    labels: Labels
    names: tuple[Pattern, ...]
    networks: tuple[Network, ...]
    uids: frozenset[int]
    executables: tuple[Pattern, ...]

    @property
    def process(self) -> bool:
        """Whether it depends on which process of the app it is."""
        return bool(self.uids or self.executables)

    def fits(self, end: End) -> bool:
        """Whether the end's identity is selected; what is asked of its process is left out."""
        return (
            self.labels <= end.labels
            and (not self.names or any(matches(pattern, name) for pattern in self.names for name in end.names))
            and (not self.networks or covers(self.networks, end.ip))
        )

    def selects(self, end: End) -> bool:
        """Whether all that is given holds."""
        if self.uids and end.uid not in self.uids:
            return False
        return (not self.executables or runs(self.executables, end.executable)) and self.fits(end)


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One policy, compiled. The order of ``rank`` decides whose name and errno are told when several would do."""

    policy: Policy
    rank: Rank
    from_: tuple[Condition, ...]
    to: tuple[Condition, ...]
    l7: tuple[L7Match, ...] | None  # None: nothing is asked of attributes; nothing in it: it can never match
    tests: tuple[Tests, ...]  # of ``l7``
    process: bool  # whether some selector depends on the process

    @property
    def name(self) -> str:
        """The policy's."""
        return self.policy.name

    def selects_client(self, client: End) -> bool:
        """Whether ``from`` does."""
        return not self.from_ or any(condition.selects(client) for condition in self.from_)

    def selects_server(self, server: End) -> bool:
        """Whether ``to`` does."""
        return not self.to or any(condition.selects(server) for condition in self.to)

    def has_port(self, port: int, protocol: Protocol) -> bool:
        """Whether ``ports`` do."""
        return not self.policy.ports or any(_in(one, port, protocol) for one in self.policy.ports)

    def concerns(self, connection: Connection) -> bool:
        """Whether all holds but what is asked of attributes."""
        client, server, port, protocol = connection
        return self.has_port(port, protocol) and self.selects_server(server) and self.selects_client(client)

    def closes(self, connection: Connection) -> bool:
        """Whether an allow policy closes the end that its direction is about. Ports do not matter for that."""
        if self.policy.direction == "ingress":
            return self.selects_server(connection.server)
        return self.selects_client(connection.client)

    def hangs_on_process(self, client: End) -> bool:
        """Whether some processes of the app are selected, and others perhaps not."""
        if not self.process or any(not one.process and one.fits(client) for one in self.from_):
            return False
        return any(one.process and one.fits(client) for one in self.from_)

    def fits_attributes(self, attributes: dict[str, str] | None) -> bool | None:
        """Whether ``l7`` matches; None when attributes are not known, and it may."""
        if self.l7 is None:
            return True
        if attributes is None:
            return None if self.l7 else False
        return any(hold(tests, attributes) for tests in self.tests)


def covers(networks: tuple[Network, ...], ip: bytes) -> bool:
    """Whether ``ip`` is in one of them."""
    size, number = len(ip), int.from_bytes(ip, "big")
    return any(length == size and number >> shift == value for length, shift, value in networks)


def runs(patterns: tuple[Pattern, ...], executable: str | None) -> bool:
    """Whether a program's path matches one of them."""
    return executable is not None and any(matches(pattern, executable) for pattern in patterns)


def compile_policy(policy: Policy) -> Rule:
    """Raises ValueError for a network that is none: control has checked them."""
    from_, to = (tuple(map(_condition, side)) for side in (policy.from_, policy.to))
    process = any(condition.process for condition in from_)
    l7 = _alternatives(policy.l7)
    return Rule(policy, (policy.order, policy.name), from_, to, l7, tuple(map(compiled, l7 or ())), process)


def _condition(selector: Selector) -> Condition:
    return Condition(
        frozenset(selector.labels.items()),
        selector.names,
        tuple(map(_network, selector.networks)),
        frozenset(selector.uids),
        selector.executables,
    )


def _network(text: str) -> Network:
    network = ipaddress.ip_network(text)
    shift = network.max_prefixlen - network.prefixlen
    return network.max_prefixlen // 8, shift, int(network.network_address) >> shift


def _alternatives(l7: tuple[L7Match, ...]) -> tuple[L7Match, ...] | None:
    """One that names no attribute always matches, one that names an attribute without a pattern never does."""
    if not all(l7) or not l7:
        return None
    return tuple(match for match in l7 if all(match.values()))


def _in(ports: PortRange, port: int, protocol: Protocol) -> bool:
    return ports.low <= port <= ports.high and ports.protocol in (None, protocol)


# -- for explanations


def said(selector: Selector) -> str:
    """A selector in words: "labels app=web, zone=a and names db, db-*"."""
    parts = [
        f"{what} {', '.join(map(str, values))}"
        for what, values in (
            ("labels", [f"{key}={value}" for key, value in sorted(selector.labels.items())]),
            ("names", selector.names),
            ("networks", selector.networks),
            ("uids", selector.uids),
            ("executables", selector.executables),
        )
        if values
    ]
    return " and ".join(parts) or "everybody"


def lacking(condition: Condition, selector: Selector, end: End) -> str:
    """The first thing that is asked for and does not hold; nothing if all does."""
    missing = condition.labels - end.labels
    if missing:
        return "has not " + ", ".join(f"{key}={value}" for key, value in sorted(missing))
    if condition.names and not condition._replace(labels=frozenset(), networks=()).fits(end):
        return f"is {' and '.join(end.names) or 'without a name'}, not {', '.join(selector.names)}"
    if condition.networks and not covers(condition.networks, end.ip):
        return f"is {ip_text(end.ip)}, which is not in {', '.join(selector.networks)}"
    if condition.uids and end.uid not in condition.uids:
        known = "has an unknown uid" if end.uid is None else f"has uid {end.uid}"
        return f"{known}, not {', '.join(map(str, selector.uids))}"
    if condition.executables and not runs(condition.executables, end.executable):
        return f"runs {end.executable or 'an unknown program'}, not {', '.join(selector.executables)}"
    return ""
