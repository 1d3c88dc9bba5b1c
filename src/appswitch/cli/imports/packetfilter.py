"""The rules of a packet filter, whichever wrote them: made by `iptables` and `nft`, read by `flatten` and `services`.

A rule is about the first packet of a TCP or UDP connection: the one at which AppSwitch decides. A condition that such
a packet always meets is no condition; a rule that it never meets has an empty ``match``, and ``implied`` says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Literal, NamedTuple

from appswitch.cli.imports.boxes import EVERYTHING, NOTHING, Region
from appswitch.resources import ErrorName

MAX_DEPTH = 64  # chains within chains; nftables itself allows 16


class Accept(NamedTuple):
    """The packet is through with this base chain."""


class Deny(NamedTuple):
    """Dropped, or rejected so that connect(2) fails with this."""

    error: ErrorName


class Return(NamedTuple):
    """Back to the chain that jumped here; in a base chain, its policy."""


class Jump(NamedTuple):
    """Through another chain. ``goto``: what returns from there returns from here, too."""

    chain: str
    goto: bool = False


class Nat(NamedTuple):
    """To another destination: one of several. No address is the host itself, no port the same port."""

    targets: tuple[tuple[str, int], ...]
    sticky: bool = False  # by the client's address


class Split(NamedTuple):
    """One of several actions by chance or in turn; what is left of 1 goes on to the next rule."""

    parts: tuple[tuple[Fraction, Action], ...]
    in_turn: bool
    by: str = ""  # "source": neither by chance nor in turn, but by the client


class Other(NamedTuple):
    """Something that no resource says."""

    why: str


class Nothing(NamedTuple):
    """Counts, names, comments."""


Action = Accept | Deny | Return | Jump | Nat | Split | Other | Nothing


class Rule(NamedTuple):
    """One line of a chain."""

    where: str
    text: str  # as it was written
    action: Action
    match: Region = EVERYTHING
    implied: str = ""  # why ``match`` is empty
    unknown: tuple[str, ...] = ()  # why some condition cannot be expressed: what is matched is some of ``match``
    interface: str = ""  # "-i eth0": unknown as well, but for address translation
    local: bool = False  # only addresses of this host, whichever they are
    affinity: bool = False  # what this client got before: kube-proxy's ClientIP affinity
    comment: str = ""


class Chain(NamedTuple):
    """Rules in order."""

    name: str
    rules: tuple[Rule, ...]


Role = Literal["ingress", "egress", "nat", "other"]


class Base(NamedTuple):
    """A chain that packets come to by themselves."""

    role: Role
    name: str  # for people: "filter INPUT", "inet firewall input"
    chain: str
    family: Region  # what it sees
    chains: Mapping[str, Chain]  # of its table
    policy: Accept | Deny = Accept()
    where: str = ""  # of the policy
    priority: int = 0  # the lowest comes first
    outgoing: bool = False  # of ``nat``: sees what this host sends, not what it receives
    why: str = ""  # of ``other``: why it cannot be expressed


def never(rule: Rule, why: str) -> Rule:
    """The rule, which no first packet of a connection meets."""
    return rule._replace(match=NOTHING, implied=why)


# What a rule does not cost a word for, in the words of the summary.
ESTABLISHED = "about connections that stand: they are decided once, when they are made"
LOOPBACK = "about loopback: that is each app's own"
NO_FIRST = "about packets that begin no connection"

INTERFACE = "connections of apps come and go through no interface"
MARK = "there are no marks"
LIMIT = "a rate of packets is not limited; limits.connections of a vservice are about connections that stand"
LOGGED = "nothing logs here: `ax flows` has every verdict with its policy"
PROTOCOL = "only TCP and UDP are decided"
SOURCE_PORT = "the client's port is not looked at"
FORWARDED = "nothing is forwarded: write policies for the apps at both ends"
UNSEEN = "packets are not looked at"
MASQUERADE = "addresses of clients are kept: nothing is masqueraded"
