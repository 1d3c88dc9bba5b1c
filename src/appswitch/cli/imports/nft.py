"""What ``nft -j list ruleset`` prints, as base chains of `packetfilter`; libnftables-json(5)."""

from __future__ import annotations

import json
from typing import Any

from appswitch.cli.imports import nft_rule, packetfilter, ranges, translate
from appswitch.cli.imports.boxes import EVERYTHING, Box, Region
from appswitch.cli.imports.documents import Names
from appswitch.cli.imports.iptables_rule import DROPPED
from appswitch.cli.imports.nft_match import Members
from appswitch.cli.imports.packetfilter import Accept, Base, Chain, Deny, Role, Rule
from appswitch.cli.imports.report import InputError, Report, shown
from appswitch.resources import Resource

GIVE = "give what `nft -j list ruleset` prints"
_STRANGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError)

_FAMILIES: dict[str, Region] = {
    "ip": (Box(source=ranges.V4, destination=ranges.V4),),
    "ip6": (Box(source=ranges.V6, destination=ranges.V6),),
    "inet": EVERYTHING,
}
# (type, hook): what it is to us, and why it is nothing
_ROLES: dict[tuple[str, str], tuple[Role, str]] = {
    ("filter", "input"): ("ingress", ""),
    ("filter", "output"): ("egress", ""),
    ("route", "output"): ("egress", ""),
    ("nat", "prerouting"): ("nat", ""),
    ("nat", "output"): ("nat", ""),
    ("nat", "input"): ("other", packetfilter.MASQUERADE),
    ("nat", "postrouting"): ("other", packetfilter.MASQUERADE),
    ("filter", "forward"): ("other", packetfilter.FORWARDED),
}
_AHEAD = "this chain sees what is forwarded as well as what stays: say it in a chain of the hook input"
_LINK = "packets of a link are not looked at"


class _Table:
    """One table, as it is read."""

    def __init__(self, family: str, name: str) -> None:
        self.family = family
        self.name = name
        self.chains: dict[str, dict[str, Any]] = {}
        self.rules: list[dict[str, Any]] = []
        self.sets: dict[str, Members] = {}


def resources(text: str, source: str, names: Names, report: Report) -> list[Resource]:
    """What `read` finds, as resources. Raises InputError."""
    return translate.resources(read(text, source), names, report)


def read(text: str, source: str) -> list[Base]:
    """Base chains that do something. Raises InputError."""
    tables: dict[tuple[str, str], _Table] = {}
    for item in _items(text, source):
        try:
            _take(item, tables)
        except _STRANGE:
            raise InputError(f"{source}: {shown(json.dumps(item))} is not known: {GIVE}") from None
    return [base for table in tables.values() for base in _bases(table, source)]


def _items(text: str, source: str) -> list[Any]:
    try:
        items = json.loads(text)["nftables"]
    except json.JSONDecodeError as err:
        raise InputError(f"{source}:{err.lineno}: this is not JSON ({err.msg}): {GIVE}") from None
    except _STRANGE:
        raise InputError(f'{source}: there is no list "nftables" in it: {GIVE}') from None
    if not isinstance(items, list):
        raise InputError(f'{source}: there is no list "nftables" in it: {GIVE}')
    return items


def _take(item: Any, tables: dict[tuple[str, str], _Table]) -> None:
    ((kind, value),) = item.items()
    if kind == "table":
        tables[value["family"], value["name"]] = _Table(value["family"], value["name"])
    elif kind in ("chain", "rule", "set", "map", "element"):
        table = tables[value["family"], value["table"]]
        if kind == "chain":
            table.chains[value["name"]] = value
        elif kind == "rule":
            table.rules.append(value)
        else:
            before = table.sets.get(value["name"], Members((), False))
            flags = value.get("flags") or ()  # nft 1.0 does not tell of dynamic
            dynamic = before.dynamic or "dynamic" in flags or "timeout" in flags
            table.sets[value["name"]] = Members((*before.elements, *value.get("elem", ())), dynamic)


def _bases(table: _Table, source: str) -> list[Base]:
    rules: dict[str, list[Rule]] = {name: [] for name in table.chains}
    for number, one in enumerate(table.rules):
        where = f"rule {one.get('handle', number)} of {table.family} {table.name} {one.get('chain')}"
        try:
            rules[one["chain"]] += nft_rule.rules(one["expr"], where, str(one.get("comment", "")), table.sets)
        except _STRANGE as err:
            detail = f"{type(err).__name__}: {err}"
            raise InputError(f"{source}: {where} is not as nft prints it ({shown(detail, 60)}): {GIVE}") from None
    chains = {name: Chain(name, tuple(found)) for name, found in rules.items()}
    return [
        _base(table, chain, chains)
        for name, chain in table.chains.items()
        if "hook" in chain and (rules[name] or chain.get("policy") == "drop")
    ]


def _base(table: _Table, chain: dict[str, Any], chains: dict[str, Chain]) -> Base:
    kind, hook, priority = chain.get("type"), chain["hook"], chain.get("prio", 0)
    role, why = _ROLES.get((str(kind), str(hook)), ("other", _AHEAD))
    if table.family not in _FAMILIES:
        role, why = "other", _LINK
    name = f"{table.family} {table.name} {chain['name']}"
    return Base(
        role=role,
        name=name,
        chain=chain["name"],
        family=_FAMILIES.get(table.family, EVERYTHING),
        chains=chains,
        policy=Deny(DROPPED) if chain.get("policy") == "drop" else Accept(),
        where=f"chain {name}",
        priority=priority if isinstance(priority, int) else 0,
        outgoing=hook == "output",
        why=why,
    )
