"""Gathers the conditions of one rule of a packet filter, for `iptables` and `nft` alike."""

from __future__ import annotations

import copy
from collections.abc import Collection

from appswitch.cli.imports import boxes, packetfilter, ranges
from appswitch.cli.imports.boxes import Box, Region
from appswitch.cli.imports.packetfilter import Action, Deny, Rule
from appswitch.cli.imports.ranges import Ranges

_STANDING = frozenset({"established", "related", "invalid", "untracked"})
_TRANSLATED = frozenset({"snat", "dnat"})
_LOOKED = "connections that stand are not looked at"

# Of a multicast or broadcast address; those of networks that the host is in are not in the rules.
MULTICAST = ranges.network("224.0.0.0/4") + ranges.network("ff00::/8")
BROADCAST = ranges.network("255.255.255.255")


class Conditions:
    """All of them must hold. What cannot be expressed is kept as a sentence that says why."""

    def __init__(self) -> None:
        self.region: Region = boxes.EVERYTHING
        self.unknown: list[str] = []
        self.interfaces: list[str] = []
        self.local = False
        self.affinity = False
        self.comment = ""
        self._never = ""  # why no first packet meets it
        self._stands = ""  # why that is not so when the rule denies

    def copy(self) -> Conditions:
        """To which more can be added."""
        other = copy.copy(self)
        other.unknown, other.interfaces = list(self.unknown), list(self.interfaces)
        return other

    def narrow(self, side: str, found: Ranges, *, negated: bool = False) -> None:
        """``side`` of a `Box`: one of these, or none of them."""
        if negated:
            found = ranges.subtract(getattr(Box(), side), found)
        self.region = boxes.intersect(self.region, (Box()._replace(**{side: found}),))

    def within(self, region: Region, *, negated: bool = False) -> None:
        """Only these connections, or only others."""
        both = boxes.subtract if negated else boxes.intersect
        self.region = both(self.region, region)

    def interface(self, name: str, written: str, *, negated: bool = False) -> None:
        """By which it comes or goes."""
        if name != "lo":
            self.interfaces.append(written)
        elif not negated:
            self.never(packetfilter.LOOPBACK, "loopback is each app's own, and nothing is denied there")

    def states(self, names: Collection[str], *, negated: bool = False) -> None:
        """Of connection tracking: a first packet is NEW, and nothing has translated it."""
        found = {name.lower() for name in names}
        strange = found - _STANDING - _TRANSLATED - {"new"}
        if strange:
            self.unknown.append(f"there is no such state of a connection as {', '.join(sorted(strange))}")
        elif "new" in found:
            if negated:
                self.never(packetfilter.ESTABLISHED)
        elif found & _TRANSLATED:
            self.unknown.append("no address is translated, and so no connection is known by that")
        elif not negated:
            stands = found & {"established", "related"}
            self.never(packetfilter.ESTABLISHED if stands else packetfilter.NO_FIRST, _LOOKED if stands else "")

    def tcp_flags(self, mask: Collection[str], wanted: Collection[str], *, negated: bool = False) -> None:
        """The first packet of TCP has SYN, and no other flag. It is about TCP alone."""
        self.narrow("ports", ranges.TCP)
        if (({"syn"} & set(mask)) == set(wanted)) == negated:
            self.never(packetfilter.NO_FIRST)

    def never(self, why: str, when_denied: str = "") -> None:
        """No first packet meets it. ``when_denied``: and that must be told if the rule denies."""
        self._never, self._stands = why, when_denied

    def rule(self, where: str, text: str, action: Action) -> Rule:
        """All together."""
        rule = Rule(
            where=where,
            text=text,
            action=action,
            match=self.region,
            unknown=tuple(self.unknown),
            interface=" ".join(self.interfaces),
            local=self.local,
            affinity=self.affinity,
            comment=self.comment,
        )
        if not self._never:
            return rule
        if self._stands and isinstance(action, Deny):
            return rule._replace(unknown=(*rule.unknown, self._stands))
        return packetfilter.never(rule, self._never)
