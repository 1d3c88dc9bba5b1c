"""Rules of packet filters one by one: what each becomes, and why the others become nothing."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appswitch.cli.imports import iptables, nft
from appswitch.cli.imports.documents import Names, document
from appswitch.cli.imports.packetfilter import ESTABLISHED, LOOPBACK, NO_FIRST
from appswitch.cli.imports.report import Report


def table(*rules: str, name: str = "filter", policy: str = "ACCEPT") -> tuple[list[dict[str, Any]], Report]:
    """The specs of what these rules become."""
    report = Report()
    chains = [f":{chain} {policy} [0:0]" for chain in ("INPUT", "OUTPUT", "FORWARD", "PREROUTING", "POSTROUTING")]
    text = "\n".join([f"*{name}", *chains[: 5 if name != "filter" else 3], *rules, "COMMIT", ""])
    found = iptables.resources(text, "x", Names(), report)
    return [document(one)["spec"] for one in found], report


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("-A INPUT -p icmp -j ACCEPT", "icmp: only TCP and UDP"),
        ("-A INPUT -p gre -j DROP", "gre: only TCP and UDP"),
        ("-A INPUT -i eth0 -j DROP", "through no interface"),
        ("-A INPUT -i lo -j DROP", "loopback is each app's own"),
        ("-A OUTPUT ! -o eth0 -j DROP", "! -o eth0: connections of apps"),
        ("-A INPUT -p udp -m udp --sport 53 -j DROP", "--sport 53: the client's port"),
        ("-A INPUT -m mark --mark 0x1 -j DROP", "there are no marks"),
        ("-A INPUT -m limit --limit 3/min -j DROP", "a rate of packets"),
        ("-A INPUT -p tcp -m tcp --dport 22 -m connlimit --connlimit-above 3 -j REJECT", "a rate of packets"),
        ("-A INPUT -m string --string x --algo bm -j DROP", "packets are not looked at"),
        ("-A INPUT -m set --match-set bad src -j DROP", "members of the set"),
        ("-A INPUT -m time --timestart 10:00 -j DROP", "at all times"),
        ("-A INPUT -m mac --mac-source 00:11:22:33:44:55 -j DROP", "packets are not looked at"),
        ("-A INPUT -m statistic --mode random --probability 0.5 -j DROP", "not by chance"),
        ("-A INPUT -m conntrack --ctstate ESTABLISHED -j DROP", "connections that stand are not looked at"),
        ("-A INPUT -m conntrack --ctstate DNAT -j DROP", "no address is translated"),
        ("-A INPUT -m conntrack --ctorigdstport 80 -j DROP", "before translation"),
        ("-A INPUT -m addrtype --src-type LOCAL -j DROP", "not in the rules"),
        ("-A INPUT -m nosuchmatch --frobnicate 3 -j DROP", "-m nosuchmatch is not known here"),
        ("-A INPUT --frobnicate 3 -j DROP", "--frobnicate 3 is not known here"),
        ("-A OUTPUT -m owner --gid-owner 5 -j DROP", "groups are not looked at"),
        ("-A OUTPUT -m owner --uid-owner www-data -j DROP", "whose number"),
        ("-A OUTPUT -m addrtype --dst-type LOCAL -j DROP", "which addresses are local"),
        ("-A INPUT -j LOG --log-prefix x", "nothing logs here"),
        ("-A INPUT -j NFQUEUE --queue-num 1", "a program that decides on packets"),
        ("-A INPUT -j CONNMARK --restore-mark", "there are no marks"),
        ("-A FORWARD -j DROP", "nothing is forwarded"),
        ("-A OUTPUT -m owner --uid-owner 1000-9000 -p tcp -m tcp --dport 25 -j DROP", ""),
    ],
)
def test_what_cannot_be_said(rule: str, why: str) -> None:
    specs, report = table(rule)
    if not why:  # there is an allow list of everybody else
        assert report.left_out
        return
    assert specs == []
    assert [(one.where, one.what) for one in report.left_out] == [("x:5", rule)]
    assert why in report.left_out[0].why


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ("-A INPUT -i lo -j ACCEPT", LOOPBACK),
        ("-A OUTPUT -o lo -j ACCEPT", LOOPBACK),
        ("-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", ESTABLISHED),
        ("-A INPUT -m state --state ESTABLISHED -j ACCEPT", ESTABLISHED),
        ("-A INPUT -m conntrack ! --ctstate NEW -j ACCEPT", ESTABLISHED),
        ("-A INPUT -m conntrack --ctstate INVALID -j DROP", NO_FIRST),
        ("-A INPUT -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m state --state NEW -j DROP", NO_FIRST),
        ("-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE -j DROP", NO_FIRST),
        ("-A INPUT -p tcp -m tcp --tcp-flags SYN,RST SYN,RST -j DROP", NO_FIRST),
    ],
)
def test_what_need_not_be_said(rule: str, what: str) -> None:
    specs, report = table(rule)
    assert (specs, report.left_out, report.implied) == ([], (), {what: 1})


@pytest.mark.parametrize(
    ("rule", "spec"),
    [
        ("-A INPUT -s 10.0.0.1 -j DROP", {"from": [{"networks": ["10.0.0.1/32"]}], "error": "ETIMEDOUT"}),
        ("-A INPUT ! -i lo -s 10.0.0.1 -j DROP", {"from": [{"networks": ["10.0.0.1/32"]}], "error": "ETIMEDOUT"}),
        (
            "-A INPUT -m conntrack --ctstate NEW -p tcp -m tcp --dport 22 --syn -j DROP",
            {"from": [{"networks": ["0.0.0.0/0"]}], "ports": ["22/tcp"], "error": "ETIMEDOUT"},
        ),
        (
            "-A INPUT -d 10.0.0.2 -p udp -j REJECT --reject-with icmp-net-unreachable",
            {"to": [{"networks": ["10.0.0.2/32"]}], "ports": ["1-65535/udp"], "error": "ENETUNREACH"},
        ),
        ("-A INPUT -d 10.0.0.2 -j REJECT", {"to": [{"networks": ["10.0.0.2/32"]}], "error": "ECONNREFUSED"}),
        (
            "-A INPUT -d 10.0.0.2 -j REJECT --reject-with icmp-host-unreachable",
            {"to": [{"networks": ["10.0.0.2/32"]}], "error": "EHOSTUNREACH"},
        ),
        (
            "-A INPUT -p tcp -m multiport --dports 80,443,8000:8010 -s 10.0.0.0/8 -j DROP",
            {
                "from": [{"networks": ["10.0.0.0/8"]}],
                "ports": ["80/tcp", "443/tcp", "8000-8010/tcp"],
                "error": "ETIMEDOUT",
            },
        ),
        (
            "-A INPUT -m iprange --src-range 10.0.0.1-10.0.0.2 -j DROP",
            {"from": [{"networks": ["10.0.0.1/32", "10.0.0.2/32"]}], "error": "ETIMEDOUT"},
        ),
    ],
)
def test_what_a_denial_becomes(rule: str, spec: dict[str, Any]) -> None:
    specs, report = table(rule)
    assert report.left_out == ()
    assert specs == [{"action": "deny", "direction": "ingress"} | spec]


def test_a_closed_chain_is_an_allow_list() -> None:
    specs, report = table("-A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j ACCEPT", policy="DROP")
    allow = {"action": "allow", "direction": "ingress", "to": [{"networks": ["0.0.0.0/0"]}], "error": "ETIMEDOUT"}
    assert specs[0] == allow | {"from": [{"networks": ["10.0.0.0/8"]}], "ports": ["22/tcp"]}
    closed = {"action": "allow", "direction": "egress", "from": [{"networks": ["0.0.0.0/0"]}], "error": "ETIMEDOUT"}
    assert specs[1] == closed | {"to": [{"networks": ["0.0.0.0/32"]}]}
    assert [one.what for one in report.left_out] == ["the policy of filter FORWARD"]


def test_a_denial_behind_what_lets_in_leaves_it_in() -> None:
    """ACCEPT before a broader DROP: the deny policy, which wins, must not have what was let in."""
    specs, _ = table("-A INPUT -s 10.0.0.0/25 -j ACCEPT", "-A INPUT -s 10.0.0.0/24 -j DROP")
    assert [spec["from"] for spec in specs] == [[{"networks": ["10.0.0.128/25"]}]]


def test_many_networks_are_one_policy() -> None:
    specs, _ = table(*[f"-A INPUT -s 10.{a}.0.1 -j DROP" for a in range(200)])
    assert [len(spec["from"][0]["networks"]) for spec in specs] == [200]


def test_ip6tables_is_about_ipv6() -> None:
    specs, _ = table("-A INPUT -s fd00::1 -j DROP", "-A INPUT -p tcp -j REJECT --reject-with icmp6-adm-prohibited")
    assert [spec["from"] for spec in specs[:1]] == [[{"networks": ["fd00::1/128"]}]]
    assert specs[1]["from"] == [{"networks": ["::/0"]}]


def test_everybody_but_one_user() -> None:
    specs, report = table("-A OUTPUT -m owner ! --uid-owner 105 -p tcp -m tcp --dport 25 -j REJECT")
    assert report.left_out == ()
    assert [(spec["action"], spec["from"], spec["ports"]) for spec in specs] == [
        ("allow", [{"networks": ["0.0.0.0/0"]}], ["1-24/tcp", "26-65535/tcp", "1-65535/udp"]),
        ("allow", [{"networks": ["0.0.0.0/0"], "uids": [105]}], ["25/tcp"]),
    ]


# -- address translation


def nat(*rules: str) -> tuple[list[dict[str, Any]], Report]:
    return table(*rules, name="nat")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_shares_become_weights(parts: list[int]) -> None:
    """A rule with a probability takes its share of what the rules before it left."""
    rules, left = [], Fraction(sum(parts))
    for number, part in enumerate(parts, 1):
        chance = f"-m statistic --mode random --probability {float(part / left):.11f} " if part != left else ""
        rules.append(
            f"-A PREROUTING -d 10.1.1.1 -p tcp -m tcp --dport 80 {chance}-j DNAT --to-destination 10.0.0.{number}:80"
        )
        left -= part
    (spec,), report = nat(*rules)
    assert report.left_out == ()
    weights = [one.get("weight", 1) for one in spec["backends"]]
    assert [Fraction(weight, sum(weights)) for weight in weights] == [Fraction(part, sum(parts)) for part in parts]


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("-A OUTPUT -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080", "every address there is"),
        ("-A PREROUTING -d 10.1.1.1 -j DNAT --to-destination 10.0.0.1", "more than 256 ports"),
        (
            "-A PREROUTING -d 10.1.0.0/16 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1",
            "more than 16 addresses",
        ),
        (
            "-A PREROUTING -s 10.9.0.0/16 -d 10.1.1.1 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1",
            "same for every client",
        ),
        (
            "-A OUTPUT -m owner --uid-owner 5 -d 10.1.1.1 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1",
            "same for every user",
        ),
        ("-A PREROUTING -d 10.1.1.1 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1:80-90", "one port"),
        (
            "-A PREROUTING -d 127.0.0.1 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1",
            "no vservice can have",
        ),
        (
            "-A PREROUTING -d 10.1.1.1 -p tcp --dport 80 -m statistic --every 2 -j DNAT --to-destination 10.0.0.1",
            "only some",
        ),
        (
            "-A PREROUTING -d 10.1.1.1 -p tcp -m tcp --dport 80 -m mark --mark 1 -j DNAT --to-destination 10.0.0.1",
            "no marks",
        ),
        ("-A POSTROUTING -j MASQUERADE", "nothing is masqueraded"),
        ("-A PREROUTING -d 10.1.1.1 -j NETMAP --to 10.2.2.2", "needs a vservice for each"),
    ],
)
def test_translations_that_no_vservice_is(rule: str, why: str) -> None:
    specs, report = nat(rule)
    assert specs == []
    assert [one.what for one in report.left_out] == [rule]
    assert why in report.left_out[0].why


def test_ports_with_the_same_backends_are_one_vservice() -> None:
    specs, _ = nat(
        "-A PREROUTING -d 10.1.1.1 -p tcp -m multiport --dports 80,81,443 -j DNAT --to-destination 10.0.0.1:8080"
    )
    assert specs == [{"ips": ["10.1.1.1"], "ports": ["80", "81", "443"], "backends": [{"external": "10.0.0.1:8080"}]}]


# -- nftables


def ruleset(*expressions: list[Any], **chain: Any) -> tuple[list[dict[str, Any]], Report]:
    where = {"family": "inet", "table": "t"}
    hooked = {"type": "filter", "hook": "input", "prio": 0, "policy": "accept"} | chain
    items: list[Any] = [{"table": {"family": "inet", "name": "t"}}, {"chain": {**where, "name": "c", **hooked}}]
    items += [{"rule": {**where, "chain": "c", "handle": n, "expr": one}} for n, one in enumerate(expressions, 5)]
    report = Report()
    found = nft.resources(json.dumps({"nftables": items}), "x", Names(), report)
    return [document(one)["spec"] for one in found], report


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


DROP = {"drop": None}
DPORT = {"payload": {"protocol": "tcp", "field": "dport"}}


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ([{"limit": {"rate": 3, "per": "second"}}, DROP], "a rate of packets"),
        ([{"log": None}], "nothing logs here"),
        ([match({"meta": {"key": "iifname"}}, "eth0"), DROP], "through no interface"),
        ([match({"meta": {"key": "mark"}}, 1), DROP], "there are no marks"),
        ([match({"meta": {"key": "skuid"}}, "postfix"), DROP], "nft -nn"),
        ([match({"ct": {"key": "mark"}}, 1), DROP], "ct mark is not looked at"),
        ([match({"payload": {"protocol": "udp", "field": "sport"}}, 53), DROP], "the client's port"),
        ([match({"payload": {"protocol": "ip", "field": "ttl"}}, 1), DROP], "packets are not looked at"),
        ([match({"payload": {"protocol": "icmp", "field": "type"}}, "echo-request"), DROP], "icmp: only TCP and UDP"),
        ([match({"meta": {"key": "l4proto"}}, "sctp"), DROP], "only TCP and UDP"),
        ([match({"numgen": {"mode": "random", "mod": 2}}, 1, "<"), DROP], "not by chance"),
        ([{"xt": {"type": "match", "name": "string"}}, DROP], "iptables-save"),
        ([{"set": {"op": "add", "elem": 1, "set": "@x", "stmt": [{"limit": {}}]}}, DROP], "a rate of packets"),
        ([{"frobnicate": None}, DROP], "frobnicate is not known here"),
        ([match({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, False), DROP], "routes and addresses"),
    ],
)
def test_statements_that_cannot_be_said(expression: list[Any], why: str) -> None:
    specs, report = ruleset(expression)
    assert specs == []
    assert [one.where for one in report.left_out] == ["rule 5 of inet t c"]
    assert why in report.left_out[0].why


@pytest.mark.parametrize(
    ("op", "ports"),
    [
        ("<", ["1-1023/tcp"]),
        ("<=", ["1-1024/tcp"]),
        (">", ["1025-65535/tcp"]),
        (">=", ["1024-65535/tcp"]),
        ("!=", ["1-1023/tcp", "1025-65535/tcp"]),
    ],
)
def test_comparisons(op: str, ports: list[str]) -> None:
    (spec,), _ = ruleset([match(DPORT, 1024, op), DROP])
    assert spec == {"action": "deny", "direction": "ingress", "ports": ports, "error": "ETIMEDOUT"}


def test_both_families_need_no_networks() -> None:
    specs, _ = ruleset([match(DPORT, 22), {"accept": None}], policy="drop")
    assert specs == [{"action": "allow", "direction": "ingress", "ports": ["22/tcp"], "error": "ETIMEDOUT"}]


def test_a_log_is_reported_and_the_verdict_holds() -> None:
    specs, report = ruleset([match(DPORT, 22), {"log": {"prefix": "x"}}, DROP])
    assert [spec["ports"] for spec in specs] == [["22/tcp"]]
    assert len(report.left_out) == 1


def test_chains_of_links_and_of_what_is_forwarded() -> None:
    for chain, why in (({"hook": "forward"}, "forwarded"), ({"hook": "prerouting"}, "as well as what stays")):
        specs, report = ruleset([DROP], **chain)
        assert specs == []
        assert why in report.left_out[0].why
