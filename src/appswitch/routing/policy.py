"""Policies, ready to be asked about connections: who may connect to whom, in a few microseconds however many there are.

The rules are in `resources.Policy`. A first question about a connection looks up the few policies that may be about it
(`index`); what was found is remembered for all that look the same to selectors, until something changes.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from itertools import islice
from typing import Literal

from appswitch.model import Protocol
from appswitch.resources import Policy
from appswitch.routing.explain import sentences
from appswitch.routing.index import Bucket, Index, Lookup, Options, client_keys, identity_keys, rank, server_keys
from appswitch.routing.judge import ALLOWED, NAMED, NOTHING, Attributes, Case, Decision, Direction, Layer, judge
from appswitch.routing.memo import Memo
from appswitch.routing.selectors import Connection, End, Rule, compile_policy

__all__ = ["Decision", "End", "Policies"]

REMEMBERED = 8192  # connections that look different to selectors
IDENTITY = slice(1, 5)  # of an End: what selectors look at, but for the process

_Role = tuple[Literal["allow", "deny"], Literal["ingress", "egress"], bool]  # the last: dry run


class Policies:
    """A set of policies. The order in which they came does not matter."""

    def __init__(self, policies: Iterable[Policy] = ()) -> None:
        self.version = 0  # changes whenever a decision may
        self._memo: Memo[Hashable, Case | Decision] = Memo(REMEMBERED)
        self._processes: Memo[Hashable, bool] = Memo(REMEMBERED)
        self._clear()
        for policy in policies:
            self.put(policy)

    def __len__(self) -> int:
        return len(self._rules)

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of those of first bytes that some policy asks for."""
        return tuple(self._attributes)

    def put(self, policy: Policy) -> None:
        """Add it, or replace the one of its name. Raises ValueError, with nothing changed, for a bad network."""
        old = self._rules.get(policy.name)
        if old is not None and old.policy == policy:
            return
        rule = compile_policy(policy)
        if old is not None:
            self._drop(old)
        self._rules[policy.name] = rule
        self._add(rule)
        self._changed()

    def remove(self, name: str) -> None:
        """Nothing happens if there is none of this name."""
        rule = self._rules.pop(name, None)
        if rule is not None:
            self._drop(rule)
            self._changed()

    def retain(self, names: Collection[str]) -> None:
        """Remove all but those of these names."""
        for name in [name for name in self._rules if name not in names]:
            self.remove(name)

    def reset(self) -> None:
        """Remove all."""
        if self._rules:
            self._clear()
            self._changed()

    def decide(
        self, client: End, server: End, port: int, protocol: Protocol, attributes: Attributes = None
    ) -> Decision:
        """Whether the connection may be made. ``attributes``: of its first bytes, None when they are not known.

        The client's uid and executable are needed only where `needs_process` says so.
        """
        if not self._rules:
            return ALLOWED
        process = self.needs_process(client)
        key = (client[1:] if process else client[IDENTITY], server[IDENTITY], port, protocol)
        found = self._memo.get(key)
        if found is None:
            case = self._case(Connection(client, server._replace(uid=None, executable=None), port, protocol))
            found = case if case.waits else judge(case, None)
            self._memo.put(key, found)
        return found if isinstance(found, Decision) else judge(found, attributes)

    def needs_process(self, client: End) -> bool:
        """Whether some policy may tell this app's processes apart: whether uid and executable have to be looked up."""
        if not len(self._clients):
            return False
        key = client[IDENTITY]
        known = self._processes.get(key)
        if known is None:
            known = _some_hang_on_process(self._clients, client)
            self._processes.put(key, known)
        return known

    def explain(
        self, client: End, server: End, port: int, protocol: Protocol, attributes: Attributes = None
    ) -> tuple[str, ...]:
        """The same decision in sentences, step by step; the last one is the verdict: allowed, denied or undecided.

        Of policies that do not match only the first few are named.
        """
        connection = Connection(client, server._replace(uid=None, executable=None), port, protocol)
        return sentences(connection, self._case(connection), self._closing, attributes)

    # -- looking up

    def _case(self, connection: Connection) -> Case:
        found: dict[_Role, list[Rule]] = {}
        for rule in self._lookup.find(connection):
            found.setdefault(_role(rule), []).append(rule)
        real, dry = (self._layer(connection, found, dry_run=dry_run) for dry_run in (False, True))
        return Case(real, dry, self._hangs_on_process(connection))

    def _layer(self, connection: Connection, found: dict[_Role, list[Rule]], *, dry_run: bool) -> Layer:
        denying = [*found.get(("deny", "ingress", dry_run), ()), *found.get(("deny", "egress", dry_run), ())]
        denying.sort(key=rank)
        egress, ingress = (
            Direction(
                tuple(islice(self._closing(connection, direction, dry_run), NAMED)),
                _enough(sorted(found.get(("allow", direction, dry_run), ()), key=rank)),
            )
            for direction in ("egress", "ingress")
        )
        layer = Layer(tuple(denying) if dry_run else _enough(denying), egress, ingress)
        return NOTHING if layer == NOTHING else layer

    def _closing(self, connection: Connection, direction: str, dry_run: bool) -> Iterator[Rule]:
        """The allow policies that close an end of the connection, in their order."""
        end = connection.server if direction == "ingress" else connection.client
        last = None
        for rule in heapq.merge(*self._closers[direction, dry_run].find(end), key=rank):
            if rule is not last and rule.closes(connection):
                yield rule
            last = rule

    def _hangs_on_process(self, connection: Connection) -> bool:
        if not self.needs_process(connection.client):
            return False
        closes = _some_hang_on_process(self._closed_clients, connection.client)
        return closes or any(True for _ in self._processes_lookup.find(connection))

    # -- filing

    def _clear(self) -> None:
        self._rules: dict[str, Rule] = {}
        self._attributes = Counter[str]()
        self._lookup = Lookup(Rule.concerns, process=True)
        self._closers = {(way, dry_run): Index() for way in ("ingress", "egress") for dry_run in (False, True)}
        # Policies that tell processes apart. They are asked about clients whose process is not known.
        self._clients = Index()
        self._closed_clients = Index()
        self._processes_lookup = Lookup(_may_concern, process=False)

    def _add(self, rule: Rule) -> None:
        self._attributes.update(name for match in rule.l7 or () for name in match)
        if rule.l7 != ():
            self._lookup.add(rule)
        for index, keys in self._indexes(rule):
            index.add(rule, index.choose(keys(rule))[1])
        if rule.process:
            self._processes_lookup.add(rule)

    def _drop(self, rule: Rule) -> None:
        self._attributes.subtract(name for match in rule.l7 or () for name in match)
        self._attributes = +self._attributes  # those of which one is left
        if rule.l7 != ():
            self._lookup.remove(rule)
        for index, _ in self._indexes(rule):
            index.remove(rule)
        if rule.process:
            self._processes_lookup.remove(rule)

    def _indexes(self, rule: Rule) -> Iterator[tuple[Index, Callable[[Rule], Options]]]:
        """Those in which it belongs, and by which side."""
        action, direction, dry_run = _role(rule)
        if action == "allow":
            yield self._closers[direction, dry_run], server_keys if direction == "ingress" else client_keys
        if rule.process:
            yield self._clients, identity_keys
        if rule.process and action == "allow" and direction == "egress":
            yield self._closed_clients, identity_keys

    def _changed(self) -> None:
        self.version += 1
        self._memo.clear()
        self._processes.clear()


def _role(rule: Rule) -> _Role:
    return rule.policy.action, rule.policy.direction, rule.policy.dry_run


def _enough(rules: list[Rule]) -> tuple[Rule, ...]:
    """All, or the first that matches whatever the attributes are: with it the others decide nothing."""
    return next(((rule,) for rule in rules if rule.l7 is None), tuple(rules))


def _may_concern(rule: Rule, connection: Connection) -> bool:
    """Whether it depends on the process if the rule is about the connection."""
    client, server, port, protocol = connection
    return rule.has_port(port, protocol) and rule.selects_server(server) and rule.hangs_on_process(client)


def _some_hang_on_process(index: Index, client: End) -> bool:
    buckets: list[Bucket] = index.find(client)
    return any(rule.hangs_on_process(client) for bucket in buckets for rule in bucket)
