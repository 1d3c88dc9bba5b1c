"""What was seen is allowed by what was learned, and nothing else is."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.routing import policy_reference as reference

from appswitch.address import ip_bytes
from appswitch.cli import learn
from appswitch.cli.learn import Cast, End, Seen
from appswitch.model import DEFAULT_LABELS
from appswitch.resources import Policy, PortRange, Selector
from appswitch.routing import policy as engine

NONE: frozenset[tuple[str, str]] = frozenset()
PORTS = [(80, "tcp"), (81, "tcp"), (82, "tcp"), (53, "udp"), (80, "udp")]


class World:
    """Policies, asked as the switch asks them and as the rules are read."""

    def __init__(self, policies: Iterable[Policy]) -> None:
        self.policies = tuple(policies)
        self.engine = engine.Policies(self.policies)

    def allows(self, client: End, server: End, port: int, protocol: str, vservice: str = "") -> bool:
        caller = engine.End(1, client.name or None, (), client.labels, ip_bytes(client.ip or "0.0.0.0"))
        called = engine.End(
            2, server.name or None, (vservice,) if vservice else (), server.labels, ip_bytes(server.ip or "0.0.0.0")
        )
        answer = reference.allowed(self.policies, caller, called, port, protocol, {})
        assert self.engine.decide(caller, called, port, protocol).allowed is answer  # type: ignore[arg-type]
        return answer


def ends(names: list[str], labels: list[frozenset[tuple[str, str]]], ips: list[str]) -> st.SearchStrategy[End]:
    return st.builds(End, st.sampled_from(names), st.sampled_from(labels), st.sampled_from(ips))


def connections(end: st.SearchStrategy[End], *vservices: str) -> st.SearchStrategy[list[Seen]]:
    one = st.builds(
        lambda client, server, port, vservice: Seen(client, server, *port, vservice),
        end,
        end,
        st.sampled_from(PORTS),
        st.sampled_from(["", *vservices]),
    )
    return st.lists(one, min_size=1, max_size=25)


PLAIN = [End(f"app{n}", frozenset(DEFAULT_LABELS.items()), f"10.0.0.{n}") for n in range(4)]
OUTSIDE = [End("", NONE, f"192.0.2.{n}") for n in range(5)]


@settings(deadline=None)
@given(connections(st.sampled_from(PLAIN + OUTSIDE)))
def test_exactly_what_was_seen(given_: list[Seen]) -> None:
    """Where every end can be told from every other."""
    learned = learn.learn(given_)
    assert not learned.notes
    world = World(learned.policies)
    everybody = {end for one in given_ for end in (one.client, one.server)}
    servers = {one.server for one in given_}
    seen = {one[:4] for one in given_}
    for client, server, port in itertools.product(everybody, servers, PORTS):
        assert world.allows(client, server, *port) == ((client, server, *port) in seen)


A, B, DEFAULT = ("app", "a"), ("tier", "b"), ("zone", "default")
MIXED = ends(
    ["", "", "web", "db"],
    [NONE, frozenset({DEFAULT}), frozenset({A}), frozenset({A, DEFAULT}), frozenset({A, B}), frozenset({B})],
    ["", "10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2"],
)


def same(one: End, other: End) -> bool:
    """What the module's docstring calls one end."""
    own = [end.labels - {DEFAULT} for end in (one, other)]
    return one == other or (one.name == other.name and (one.name != "" or own[0] == own[1] != frozenset()))


@settings(deadline=None)
@given(connections(MIXED, "web", "shop"), st.lists(MIXED, max_size=4))
def test_ends_that_are_hard_to_tell_apart(given_: list[Seen], others: list[End]) -> None:
    """What was seen is allowed, unless nothing selects it; the rest is denied, unless a note says why it is not."""
    learned = learn.learn(given_, others)
    cast, world = Cast(given_, others), World(learned.policies)
    kept = [one for one in given_ if cast.pick(one.client) and cast.pick(one.server)]
    for one in kept:
        assert world.allows(one.client, one.server, one.port, one.protocol, one.vservice)
    assert len(kept) == len(given_) or any("left out" in note for note in learned.notes)
    if learned.notes:
        return
    for client, server, port in itertools.product(cast.names, {one.server for one in kept}, PORTS):
        may_be = any(
            same(client, one.client) and same(server, one.server) and port == (one.port, one.protocol) for one in kept
        )
        for vservice in {"", *(cast.names[server] - {server.name})}:
            assert may_be or not world.allows(client, server, *port, vservice)


@settings(deadline=None)
@given(connections(st.sampled_from(PLAIN + OUTSIDE)))
def test_widened_networks_allow_no_less(given_: list[Seen]) -> None:
    learned = learn.learn(given_, widen={4: 24, 6: 64})
    world = World(learned.policies)
    for one in given_:
        assert world.allows(one.client, one.server, one.port, one.protocol)
        if one.client in OUTSIDE:
            neighbour = one.client._replace(ip="192.0.2.99")
            assert world.allows(neighbour, one.server, one.port, one.protocol)


@settings(deadline=None)
@given(connections(MIXED), st.randoms())
def test_order_does_not_matter(given_: list[Seen], chance: Any) -> None:
    shuffled = list(given_)
    chance.shuffle(shuffled)
    assert learn.learn(shuffled) == learn.learn(given_)


def policy(name: str, from_: list[Selector], to: list[Selector], *ports: str) -> Policy:
    ranges = []
    for text in ports:
        words, _, protocol = text.partition("/")
        low, _, high = words.partition("-")
        ranges.append(PortRange(int(low), int(high or low), protocol or None))  # type: ignore[arg-type]
    return Policy(name=name, action="allow", from_=tuple(from_), to=tuple(to), ports=tuple(ranges))


def named(*names: str) -> list[Selector]:
    return [Selector(names=names)]


def at(*networks: str) -> list[Selector]:
    return [Selector(networks=networks)]


WEB, DB, API, X = PLAIN
LABELLED = End("", frozenset({A, DEFAULT}), "10.1.0.1")


@pytest.mark.parametrize(
    ("given_", "policies"),
    [
        ([], []),
        ([(WEB, DB, 80, "tcp")], [policy("t-app1", named("app0"), named("app1"), "80/tcp")]),
        # Clients with the same ports, and servers with the same clients and ports.
        (
            [(WEB, DB, 80, "tcp"), (API, DB, 80, "tcp"), (WEB, X, 80, "tcp"), (API, X, 80, "tcp")],
            [policy("t-app1", named("app0", "app2"), named("app1", "app3"), "80/tcp")],
        ),
        # By clients it is two policies, by ports three.
        (
            [(WEB, DB, 80, "tcp"), (WEB, DB, 82, "tcp"), (API, DB, 82, "tcp"), (API, DB, 90, "tcp")],
            [
                policy("t-app1", named("app0"), named("app1"), "80/tcp", "82/tcp"),
                policy("t-app1-2", named("app2"), named("app1"), "82/tcp", "90/tcp"),
            ],
        ),
        # By ports it is two policies, by clients three.
        (
            [(WEB, DB, 80, "tcp"), (API, DB, 80, "tcp"), (API, DB, 90, "tcp"), (X, DB, 90, "tcp")],
            [
                policy("t-app1", named("app0", "app2"), named("app1"), "80/tcp"),
                policy("t-app1-2", named("app2", "app3"), named("app1"), "90/tcp"),
            ],
        ),
        # Ports that follow each other; both protocols.
        (
            [(WEB, DB, port, protocol) for port, protocol in ((80, "tcp"), (81, "tcp"), (53, "udp"), (53, "tcp"))],
            [policy("t-app1", named("app0"), named("app1"), "53", "80-81/tcp")],
        ),
        # Networks that fill a larger one.
        (
            [(end, DB, 80, "tcp") for end in OUTSIDE],
            [policy("t-app1", at("192.0.2.0/30", "192.0.2.4/32"), named("app1"), "80/tcp")],
        ),
        # Labels where there is no name.
        (
            [(LABELLED, DB, 80, "tcp"), (LABELLED._replace(ip="10.1.0.2"), DB, 80, "tcp")],
            [policy("t-app1", [Selector(labels={"app": "a"})], named("app1"), "80/tcp")],
        ),
        # The address where others have these labels, too.
        (
            [(LABELLED, DB, 80, "tcp"), (WEB, LABELLED._replace(name="x", ip="10.1.0.2"), 80, "tcp")],
            [
                policy("t-app1", at("10.1.0.1/32"), named("app1"), "80/tcp"),
                policy("t-x", named("app0"), named("x"), "80/tcp"),
            ],
        ),
        # Address and labels where others have either.
        (
            [(LABELLED, DB, 80, "tcp"), (LABELLED._replace(labels=NONE), X, 80, "tcp"), (WEB, PLAIN[1], 80, "tcp")],
            None,
        ),
    ],
)
def test_examples(given_: list[tuple[End, End, int, str]], policies: list[Policy] | None) -> None:
    learned = learn.learn([Seen(*one) for one in given_], prefix="t")  # type: ignore[arg-type]
    if policies is not None:
        assert list(learned.policies) == policies
        assert not learned.notes


def test_ends_that_cannot_be_told_apart() -> None:
    bare = End("", NONE, "10.0.0.9")
    learned = learn.learn([Seen(bare, DB, 80, "tcp"), Seen(bare._replace(labels=frozenset({A})), X, 80, "tcp")])
    assert learned.notes == (
        "10.0.0.9 app=a cannot be told from 10.0.0.9/32: what is allowed to the one is allowed to the other",
    )
    nobody = End("", NONE, "")
    learned = learn.learn([Seen(nobody, DB, 80, "tcp"), Seen(WEB, DB, 80, "tcp")])
    assert [one.from_ for one in learned.policies] == [tuple(named("app0"))]
    assert "left out" in learned.notes[0]


def test_others_are_told_apart_though_they_were_not_seen() -> None:
    other = LABELLED._replace(name="x", ip="10.1.0.2")
    (one,) = learn.learn([Seen(LABELLED, DB, 80, "tcp")], [other]).policies
    assert list(one.from_) == at("10.1.0.1/32")


def test_a_policy_has_no_more_than_it_may() -> None:
    clients = [End("", NONE, f"10.0.{n // 100}.{2 * (n % 100)}") for n in range(300)]
    labelled = [End("", frozenset({("app", f"a{n}")}), "") for n in range(300)]
    given_ = [Seen(client, DB, 80, "tcp") for client in [*clients, *labelled, *PLAIN]]
    given_ += [Seen(WEB, X, port, "tcp") for port in range(1, 601, 2)]
    policies = learn.learn(given_).policies
    assert [one.name for one in policies] == ["learned-app1", "learned-app1-2", "learned-app3", "learned-app3-2"]
    assert sum(len(one.ports) for one in policies) == 302
    for one in policies:
        assert max(len(one.from_), len(one.to), len(one.ports), *(len(each.networks) for each in one.from_)) <= 256


# --- rows of the daemon ----------------------------------------------------------------------------------------------

FLOW: dict[str, Any] = {
    "time": 1.0, "proto": "tcp", "verdict": "allowed", "client_app": 1, "server_app": 2, "client": "10.0.0.1:40000",
    "server": "10.3.0.1:80", "vservice": "shop", "backend": "10.0.0.2:8080", "rule": "", "error": "", "dry_run": False,
    "client_name": "web", "server_name": "db", "client_labels": {"app": "a"}, "server_labels": {},
}  # fmt: skip
SEEN = Seen(End("web", frozenset({A}), "10.0.0.1"), End("db", NONE, "10.0.0.2"), 8080, "tcp", "shop")


@pytest.mark.parametrize(
    ("changed", "seen"),
    [
        ({}, SEEN),
        ({"dry_run": True}, SEEN),
        ({"backend": ""}, SEEN._replace(server=SEEN.server._replace(ip="10.3.0.1"), port=80)),
        ({"client": ""}, SEEN._replace(client=SEEN.client._replace(ip=""))),
        ({"client": "[fd00::1]:4"}, SEEN._replace(client=SEEN.client._replace(ip="fd00::1"))),
        (
            {"client_app": 0, "client_name": None, "client_labels": None},
            SEEN._replace(client=End("", NONE, "10.0.0.1")),
        ),
        ({"verdict": "denied"}, None),
        ({"verdict": "refused"}, None),
        ({"client_app": 2, "backend": "127.0.0.1:80"}, None),
    ],
)
def test_rows_of_flows(changed: dict[str, Any], seen: Seen | None) -> None:
    assert learn.seen(FLOW | changed) == seen


@pytest.mark.parametrize(
    "row", [{}, [], 5, None, FLOW | {"client": "x:1"}, FLOW | {"backend": "10.0.0.1"}, FLOW | {"client": 5},
            FLOW | {"client_labels": 5}],
)  # fmt: skip
def test_rows_that_are_none(row: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        learn.seen(row)


def test_rows_of_connections() -> None:
    row = {"proto": "udp", "client": "10.0.0.1:4", "server": "10.0.0.2:53", "client_app": 1, "server_app": 9,
           "client_appid": "00000001", "server_appid": "00000009", "transport": "udp"}  # fmt: skip
    app = {"name": "web", "labels": {"app": "a"}, "ips": ["10.0.0.1", "fd00::1"]}
    found = learn.seen(learn.flow_of(row, {1: app}))
    assert found == Seen(End("web", frozenset({A}), "10.0.0.1"), End("", NONE, "10.0.0.2"), 53, "udp")
    assert list(learn.ends_of(app)) == [End("web", frozenset({A}), ip) for ip in ("10.0.0.1", "fd00::1")]
    assert list(learn.ends_of(app | {"ips": [], "name": None})) == [End("", frozenset({A}), "")]


def test_documents() -> None:
    (one,) = learn.learn([Seen(LABELLED, DB, 80, "tcp")]).policies
    assert learn.document(one) == {
        "apiVersion": "appswitch/v1",
        "kind": "Policy",
        "metadata": {"name": "learned-app1"},
        "spec": {
            "action": "allow",
            "direction": "ingress",
            "from": [{"labels": {"app": "a"}}],
            "to": [{"names": ["app1"]}],
            "ports": ["80/tcp"],
        },
    }


def test_names() -> None:
    names = learn.Names("p")
    given_ = [names.give(about) for about in ("10.0.0.1/32", "10.0.0.1/32", "a" * 99, "a" * 99)]
    assert given_ == ["p-10-0-0-1-32", "p-10-0-0-1-32-2", f"p-{'a' * 61}", f"p-{'a' * 59}-2"]
