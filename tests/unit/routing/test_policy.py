"""Policies: what they decide, against the plain reading of their rules, and in examples."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.routing import policy_reference as reference

from appswitch.address import ip_bytes
from appswitch.resources import Policy, PortRange, Selector
from appswitch.routing.judge import NAMED
from appswitch.routing.policy import Decision, End, Policies

# --- any policies, any connection ------------------------------------------------------------------------------------

PAIRS = [("app", "web"), ("app", "db"), ("zone", "a"), ("zone", "b")]
NAMES = ["web", "web-1", "db", "other"]
IPS = ["10.0.0.1", "10.0.0.2", "10.1.0.1", "fd00::1", "fd00:1::1", "192.0.2.1"]
EXECUTABLES = ["/bin/a", "/bin/b", "/usr/bin/a"]

labels = st.lists(st.sampled_from(PAIRS), max_size=2).map(dict)
selectors = st.builds(
    Selector,
    labels=labels,
    names=st.lists(st.sampled_from([*NAMES, "web*", "*1", "*b*", "*", "**", "d*b"]), max_size=2, unique=True).map(
        tuple
    ),
    networks=st.lists(
        st.sampled_from(["10.0.0.0/8", "10.0.0.1/32", "10.0.0.0/24", "0.0.0.0/0", "fd00::/8", "fd00::/64", "::/0"]),
        max_size=2,
        unique=True,
    ).map(tuple),
)
callers = st.builds(
    lambda selector, uids, executables: msgspec.structs.replace(
        selector, uids=tuple(uids), executables=tuple(executables)
    ),
    selectors,
    st.lists(st.sampled_from([0, 1000, 1001]), max_size=2),
    st.lists(st.sampled_from([*EXECUTABLES, "/bin/*", "*a", "*"]), max_size=1),
)
ports = st.sampled_from(
    [PortRange(80, 80), PortRange(80, 80, "tcp"), PortRange(53, 53, "udp"), PortRange(50, 90), PortRange(1, 65535)]
)
l7 = st.dictionaries(
    st.sampled_from(["http.method", "http.path"]),
    st.lists(st.sampled_from(["GET", "/a*", "*", "*b", "*a*"]), max_size=2).map(tuple),
    max_size=2,
)


def several(what: st.SearchStrategy[Any], most: int = 2) -> st.SearchStrategy[Any]:
    return st.lists(what, max_size=most).map(tuple)


policies = st.builds(
    Policy,
    name=st.sampled_from([f"p{number}" for number in range(8)]),
    action=st.sampled_from(["allow", "deny"]),
    direction=st.sampled_from(["ingress", "egress"]),
    from_=several(selectors) | several(callers),
    to=several(selectors),
    ports=several(ports),
    l7=several(l7) | st.just(()),
    error=st.sampled_from(["EACCES", "ECONNREFUSED"]),
    dry_run=st.sampled_from([False, False, True]),
    order=st.integers(0, 3),
)
some_policies = st.lists(policies, max_size=6, unique_by=lambda one: one.name)
ends = st.builds(
    End,
    app_id=st.integers(0, 3),
    name=st.sampled_from([None, *NAMES]),
    vservices=st.lists(st.sampled_from(NAMES), max_size=1).map(tuple),
    labels=labels.map(lambda one: frozenset(one.items())),
    ip=st.sampled_from(IPS).map(ip_bytes),
    uid=st.sampled_from([None, 0, 1000]),
    executable=st.sampled_from([None, *EXECUTABLES]),
)
flows = st.tuples(ends, ends, st.sampled_from([53, 80, 443]), st.sampled_from(["tcp", "udp"]))

# For the patterns above these stand for all that can be peeked.
ATTRIBUTES: list[dict[str, str]] = [
    {name: value for name, value in zip(("http.method", "http.path"), values, strict=True) if value is not None}
    for values in itertools.product([None, "GET", "/a", "x", "b", "/ab", "xax", "xab"], repeat=2)
]
attributes = st.sampled_from(ATTRIBUTES)


@settings(deadline=None)
@given(some_policies, flows, attributes)
def test_as_the_rules_say(given_: list[Policy], flow: Any, peeked: dict[str, str]) -> None:
    decision = Policies(given_).decide(*flow, peeked)
    assert decision.allowed is reference.allowed((one for one in given_ if not one.dry_run), *flow, peeked)
    assert decision.dry_run_waits == ()


@settings(deadline=None)
@given(some_policies, flows)
def test_undecided_only_where_attributes_matter(given_: list[Policy], flow: Any) -> None:
    """But for policies that contradict each other: with every attribute it is denied."""
    asked = Policies(given_)
    early = asked.decide(*flow)
    later = {asked.decide(*flow, peeked).allowed for peeked in ATTRIBUTES}
    if early.allowed is None:
        assert False in later
    else:
        assert later == {early.allowed}
    if later == {True, False}:
        assert early.allowed is None


@settings(deadline=None)
@given(some_policies, flows)
def test_undecided_exactly_where_attributes_matter_to_one_policy(given_: list[Policy], flow: Any) -> None:
    kept = [one for one in given_ if not one.l7] + [one for one in given_ if one.l7][:1]
    asked = Policies(kept)
    later = {asked.decide(*flow, peeked).allowed for peeked in ATTRIBUTES}
    assert (asked.decide(*flow).allowed is None) == (len(later) == 2)


@settings(deadline=None)
@given(some_policies, flows, st.none() | attributes)
def test_who_decided(given_: list[Policy], flow: Any, peeked: dict[str, str] | None) -> None:
    decision = Policies(given_).decide(*flow, peeked)
    known = {one.name: one for one in given_ if not one.dry_run}
    named = [known[name] for name in decision.rule.split(",") if name]
    assert (decision.error != "") == (decision.allowed is False)
    if decision.allowed is False:
        assert decision.error == named[0].error
        assert {one.action for one in named} == {"deny"} or all(
            one.action == "allow" and reference.closes(one, flow[0], flow[1]) for one in named
        )
        assert len(named) <= (1 if named[0].action == "deny" else NAMED)
    elif decision.allowed:
        assert {one.action for one in named} <= {"allow"}
        closed = {one.direction for one in known.values() if one.action == "allow" and reference.closes(one, *flow[:2])}
        assert {one.direction for one in named} == closed
        assert len(named) == len(closed)


@settings(deadline=None)
@given(some_policies, flows, attributes)
def test_dry_run_says_what_would_be(given_: list[Policy], flow: Any, peeked: dict[str, str]) -> None:
    """Nothing is said exactly where all policies together would not have denied more than those that count do."""
    decision = Policies(given_).decide(*flow, peeked)
    everything = [msgspec.structs.replace(one, dry_run=False) for one in given_]
    would = reference.allowed(everything, *flow, peeked)
    if decision.dry_run:
        assert not would
        assert {one.name for one in given_ if one.dry_run} >= set(decision.dry_run)
    elif decision.allowed:
        assert would


@settings(deadline=None)
@given(some_policies, flows)
def test_dry_run_before_attributes_are_known(given_: list[Policy], flow: Any) -> None:
    asked = Policies(given_)
    early = asked.decide(*flow)
    for peeked in ATTRIBUTES:
        later = asked.decide(*flow, peeked)
        assert set(early.dry_run) <= set(later.dry_run) <= {*early.dry_run, *early.dry_run_waits}


@settings(deadline=None)
@given(some_policies, flows, st.none() | attributes)
def test_other_processes_of_the_app(given_: list[Policy], flow: Any, peeked: dict[str, str] | None) -> None:
    """Where no process is needed each gives the same answer."""
    asked = Policies(given_)
    client, *rest = flow
    decisions = {
        asked.decide(client._replace(uid=uid, executable=executable), *rest, peeked)
        for uid in (None, 0, 1000, 7)
        for executable in (None, *EXECUTABLES, "/x")
    }
    assert len({one.needs_process for one in decisions}) == 1
    if not next(iter(decisions)).needs_process:
        assert len(decisions) == 1
    if not asked.needs_process(client):
        assert not next(iter(decisions)).needs_process


@settings(deadline=None)
@given(some_policies, flows, st.none() | attributes)
def test_the_explanation_is_of_this_decision(given_: list[Policy], flow: Any, peeked: dict[str, str] | None) -> None:
    asked = Policies(given_)
    decision = asked.decide(*flow, peeked)
    *steps, verdict = asked.explain(*flow, peeked)
    word = {True: "allowed", False: "denied", None: "undecided"}[decision.allowed]
    assert verdict.startswith(f"{word} by policy {decision.rule}" if decision.rule and word != "undecided" else word)
    assert all(f"policy {name} " in " ".join(steps) for name in decision.dry_run)
    for name in filter(None, decision.rule.split(",")):
        assert any(name in step for step in steps)
        lines = [step for step in steps if step.startswith(f"policy {name}: ")]
        if decision.allowed:
            assert any(line.startswith(f"policy {name}: matches") for line in lines)
        elif lines:
            assert decision.allowed is None or not any(line == f"policy {name}: matches" for line in lines)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["put", "put", "remove", "reset"]), policies), max_size=20), flows)
def test_only_what_is_there_counts_and_not_how_it_came(history: list[tuple[str, Policy]], flow: Any) -> None:
    asked, now = Policies(), {}
    for what, policy in history:
        asked.decide(*flow)
        version, before = asked.version, dict(now)
        if what == "put":
            asked.put(policy)
            now[policy.name] = policy
        elif what == "remove":
            asked.remove(policy.name)
            now.pop(policy.name, None)
        else:
            asked.reset()
            now.clear()
        assert (asked.version != version) == (now != before)
        fresh = Policies(now.values())
        assert len(asked) == len(fresh) == len(now)
        assert asked.decide(*flow) == fresh.decide(*flow)
        assert asked.decide(*flow, {"http.method": "GET"}) == fresh.decide(*flow, {"http.method": "GET"})
        assert asked.explain(*flow) == fresh.explain(*flow)
        assert asked.needs_process(flow[0]) == fresh.needs_process(flow[0])
    for name in now:
        asked.remove(name)
    filed = [*asked._closers.values(), asked._clients, asked._closed_clients]
    filed += [*asked._lookup._sides, *asked._processes_lookup._sides]
    assert not any(len(index) or index._tables for index in filed)


# --- each way to select, alone ---------------------------------------------------------------------------------------

SELECTIVE = [
    *(Selector(labels=dict(pairs)) for pairs in ([PAIRS[0]], [PAIRS[0], PAIRS[2]])),
    *(Selector(names=(pattern,)) for pattern in ["web", "web*", "*1", "*b*", "*", "**", "d*b", "web-1*", "*web-1"]),
    *(Selector(networks=(network,)) for network in ["10.0.0.0/8", "10.0.0.1/32", "0.0.0.0/0", "fd00::/64", "::/0"]),
    Selector(names=("db", "*-1"), networks=("10.0.0.0/24", "fd00::/16")),
]
BY_PROCESS = [
    Selector(uids=(0, 1000)),
    *(Selector(executables=(pattern,)) for pattern in ["/bin/a", "/bin/*", "*a", "*", "*in*"]),
    Selector(uids=(0,), executables=("/bin/a",), names=("web",)),
]
EVERY_END = [
    End(1, name, vservices, frozenset(pairs), ip_bytes(ip))
    for name in [None, "web", "web-1", "1"]
    for vservices in [(), ("db",)]
    for pairs in [(), PAIRS[:1], [PAIRS[0], PAIRS[2]]]
    for ip in IPS
]


@pytest.mark.parametrize("selector", SELECTIVE)
def test_what_is_selected_is_found(selector: Selector) -> None:
    sides = [{"to": (selector,)}, {"from_": (selector,)}, {"from_": (selector, *SELECTIVE[:1]), "to": (selector,)}]
    for side in sides:
        one = Policy(name="p", action="deny", **side)  # type: ignore[arg-type]
        asked = Policies([one])
        for each in EVERY_END:
            assert asked.decide(each, each, 80, "tcp").allowed is reference.allowed([one], each, each, 80, "tcp", {})


@pytest.mark.parametrize("selector", BY_PROCESS)
@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_processes_that_are_selected_are_found(selector: Selector, direction: str) -> None:
    one = Policy(name="p", action="allow", direction=direction, from_=(selector,), to=(Selector(names=("db",)),))  # type: ignore[arg-type]
    asked = Policies([one])
    for name, uid, executable in itertools.product(["web", "db"], [None, 0, 5], [None, *EXECUTABLES]):
        client = EVERY_END[0]._replace(name=name, uid=uid, executable=executable)
        for server in (EVERY_END[0], EVERY_END[0]._replace(name="db")):
            decision = asked.decide(client, server, 80, "tcp")
            assert decision.allowed is reference.allowed([one], client, server, 80, "tcp", {})
            if name == "web":
                assert asked.needs_process(client)
                assert decision.needs_process == (direction == "egress" or server.name == "db")


# --- examples --------------------------------------------------------------------------------------------------------


def end(ip: str = "10.0.0.1", name: str | None = None, *, app: int = 1, **labels: str) -> End:
    return End(app, name, (), frozenset(labels.items()), ip_bytes(ip))


WEB, DB, OTHER = end("10.0.0.1", "web", app=1), end("10.0.0.2", "db", app=2), end("10.0.0.3", "other", app=3)
OUTSIDE = end("192.0.2.1", app=0)


def policy(name: str, action: str, from_: str = "", to: str = "", **more: Any) -> Policy:
    """Ends by name."""
    sides = {key: tuple(Selector(names=(one,)) for one in text.split()) for key, text in (("from_", from_), ("to", to))}
    return Policy(name=name, action=action, **{**sides, **more})  # type: ignore[arg-type]


PORT80 = (PortRange(80, 80),)


@pytest.mark.parametrize(
    ("given_", "client", "decision"),
    [
        ([], WEB, Decision(True)),
        ([policy("d", "deny", "web", "db")], WEB, Decision(False, "d", "EACCES")),
        ([policy("d", "deny", "web", "db")], OTHER, Decision(True)),
        ([policy("d", "deny", "web", "db", error="ECONNREFUSED")], WEB, Decision(False, "d", "ECONNREFUSED")),
        # A deny wins over any allow, whichever came first.
        ([policy("a", "allow", "web", "db"), policy("d", "deny", "web", "db", order=9)], WEB,
         Decision(False, "d", "EACCES")),
        # An allow list closes.
        ([policy("a", "allow", "web", "db")], WEB, Decision(True, "a")),
        ([policy("a", "allow", "web", "db")], OTHER, Decision(False, "a", "EACCES")),
        ([policy("a", "allow", "web", "db"), policy("b", "allow", "other", "db")], OTHER, Decision(True, "b")),
        # Another server's list closes nothing here.
        ([policy("a", "allow", "web", "other")], OTHER, Decision(True)),
        # Ports: the list closes all of them.
        ([policy("a", "allow", "web", "db", ports=(PortRange(443, 443),))], WEB, Decision(False, "a", "EACCES")),
        ([policy("a", "allow", "web", "db", ports=(PortRange(80, 80, "udp"),))], WEB, Decision(False, "a", "EACCES")),
        ([policy("a", "allow", "web", "db", ports=(PortRange(1, 99),))], WEB, Decision(True, "a")),
        # Egress closes the client.
        ([policy("e", "allow", "web", "other", direction="egress")], WEB, Decision(False, "e", "EACCES")),
        ([policy("e", "allow", "web", "other", direction="egress")], OTHER, Decision(True)),
        # Both directions have to be satisfied.
        ([policy("e", "allow", "web", "db", direction="egress"), policy("i", "allow", "web", "db")], WEB,
         Decision(True, "e,i")),
        ([policy("e", "allow", "web", "db", direction="egress"), policy("i", "allow", "other", "db")], WEB,
         Decision(False, "i", "EACCES")),
        # An empty list is everybody.
        ([policy("a", "allow")], WEB, Decision(True, "a")),
        ([policy("d", "deny")], OUTSIDE, Decision(False, "d", "EACCES")),
        ([policy("a", "allow", "web")], OUTSIDE, Decision(False, "a", "EACCES")),
        # Dry run changes nothing.
        ([policy("d", "deny", dry_run=True)], WEB, Decision(True, dry_run=("d",))),
        ([policy("a", "allow", "web", "db", dry_run=True)], OTHER, Decision(True, dry_run=("a",))),
        ([policy("a", "allow", "web", "db", dry_run=True)], WEB, Decision(True)),
        ([policy("a", "allow", "web", "db", dry_run=True), policy("b", "allow", "other", "db", dry_run=True)], OTHER,
         Decision(True)),
        ([policy("a", "allow", "web", "db"), policy("b", "allow", "other", "db", dry_run=True)], OTHER,
         Decision(False, "a", "EACCES")),
        ([policy("a", "allow", "web", "db", dry_run=True), policy("b", "allow", "other", "db")], OTHER,
         Decision(True, "b")),
        # One that selects the server in several ways is one.
        ([policy("a", "allow", "web", "db d* *b")], OTHER, Decision(False, "a", "EACCES")),
        # Of many that close the first are named.
        ([policy(f"a{n}", "allow", "web", "db", order=9 - n) for n in range(6)], OTHER,
         Decision(False, "a5,a4,a3", "EACCES")),
    ],
)  # fmt: skip
def test_examples(given_: list[Policy], client: End, decision: Decision) -> None:
    assert Policies(given_).decide(client, DB, 80, "tcp") == decision


GET = ({"http.method": ("GET",)},)


@pytest.mark.parametrize(
    ("given_", "early", "with_get", "with_none"),
    [
        ([policy("d", "deny", to="db", l7=GET)], None, False, True),
        ([policy("a", "allow", to="db", l7=GET)], None, True, False),
        # What is certain without them is not asked about.
        ([policy("d", "deny", to="db", l7=GET), policy("e", "deny", to="db")], False, False, False),
        ([policy("a", "allow", to="db", l7=GET), policy("b", "allow", to="db")], True, True, True),
        ([policy("a", "allow", "other", "db", l7=GET)], False, False, False),
        ([policy("a", "allow", "other", "db"), policy("d", "deny", l7=GET)], False, False, False),
        ([policy("a", "allow", to="db", l7=GET), policy("e", "allow", "web", "other", direction="egress")],
         False, False, False),
        # A match that asks for nothing is no match to wait for; one that cannot be is none, too.
        ([policy("d", "deny", to="db", l7=(*GET, {}))], False, False, False),
        ([policy("d", "deny", to="db", l7=({"http.method": ()},))], True, True, True),
        ([policy("a", "allow", to="db", l7=({"http.method": ()},))], False, False, False),
        # Dry run holds nobody.
        ([policy("d", "deny", to="db", l7=GET, dry_run=True)], True, True, True),
    ],
)  # fmt: skip
def test_l7(given_: list[Policy], early: bool | None, with_get: bool, with_none: bool) -> None:
    asked = Policies(given_)
    found = [asked.decide(WEB, DB, 80, "tcp", peeked).allowed for peeked in (None, {"http.method": "GET"}, {})]
    assert found == [early, with_get, with_none]


def test_l7_dry_run_waits() -> None:
    asked = Policies([policy("d", "deny", to="db", l7=GET, dry_run=True)])
    assert asked.decide(WEB, DB, 80, "tcp") == Decision(True, dry_run_waits=("d",))
    assert asked.decide(WEB, DB, 80, "tcp", {"http.method": "GET"}) == Decision(True, dry_run=("d",))


def test_a_vservice_is_a_name_of_who_was_addressed_by_it() -> None:
    asked = Policies([policy("a", "allow", "web", "shop")])
    assert asked.decide(OTHER, DB, 80, "tcp").allowed
    assert asked.decide(OTHER, DB._replace(vservices=("shop",)), 80, "tcp").allowed is False


def test_only_apps_that_a_process_selector_may_select_need_their_process() -> None:
    by_uid = policy("d", "deny", to="db", from_="")
    asked = Policies([msgspec.structs.replace(by_uid, from_=(Selector(names=("web",), uids=(1000,)),))])
    assert asked.needs_process(WEB)
    assert not asked.needs_process(OTHER)
    assert asked.decide(WEB, DB, 80, "tcp") == Decision(True, needs_process=True)
    assert asked.decide(WEB._replace(uid=1000), DB, 80, "tcp") == Decision(False, "d", "EACCES", needs_process=True)
    assert not asked.decide(WEB, OTHER, 80, "tcp").needs_process
    asked.remove("d")
    assert not asked.needs_process(WEB)


def test_who_is_selected_anyway_needs_no_process() -> None:
    asked = Policies([Policy(name="d", action="deny", from_=(Selector(names=("web",)), Selector(uids=(5,))))])
    assert not asked.needs_process(WEB)
    assert asked.decide(WEB, DB, 80, "tcp") == Decision(False, "d", "EACCES")
    assert asked.decide(OTHER, DB, 80, "tcp") == Decision(True, needs_process=True)


def test_an_egress_policy_closes_only_the_processes_that_it_selects() -> None:
    ours = policy("e", "allow", to="db", direction="egress")
    asked = Policies([msgspec.structs.replace(ours, from_=(Selector(executables=("/usr/bin/curl",)),))])
    curl = WEB._replace(executable="/usr/bin/curl")
    assert asked.decide(curl, OTHER, 80, "tcp") == Decision(False, "e", "EACCES", needs_process=True)
    assert asked.decide(WEB, OTHER, 80, "tcp") == Decision(True, needs_process=True)
    assert asked.decide(curl, DB, 80, "tcp") == Decision(True, "e", needs_process=True)


def test_a_bad_network_changes_nothing() -> None:
    asked = Policies([policy("d", "deny", to="db")])
    bad = Policy(name="d", action="deny", to=(Selector(networks=("10.0.0.0/33",)),))
    with pytest.raises(ValueError, match="/33"):
        asked.put(bad)
    assert asked.decide(WEB, DB, 80, "tcp").rule == "d"


def test_what_is_put_again_changes_nothing() -> None:
    asked = Policies([policy("d", "deny", to="db")])
    version = asked.version
    asked.put(policy("d", "deny", to="db"))
    asked.remove("x")
    assert asked.version == version
    asked.reset()
    asked.reset()
    assert asked.version == version + 1
