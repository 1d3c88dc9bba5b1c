"""The expressions of nftables' JSON that a packet is compared with; libnftables-json(5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from appswitch.cli.imports import boxes, packetfilter, ranges
from appswitch.cli.imports.boxes import Box, Region
from appswitch.cli.imports.conditions import BROADCAST, MULTICAST, Conditions
from appswitch.cli.imports.ranges import Ranges


class UnknownError(Exception):
    """Something that no resource can say. The text is the reason."""


class Members(NamedTuple):
    """Of a named set or map."""

    elements: tuple[Any, ...]
    dynamic: bool  # packets add to it


Sets = Mapping[str, Members]


class _Field(NamedTuple):
    """One property of a packet: the side of a `Box`, and how a value is read."""

    side: str
    read: Callable[[Any], Ranges]
    scope: Box = Box()  # packets that have the property

    def box(self, value: Any) -> Box:
        found = boxes.intersect((self.scope,), (Box()._replace(**{self.side: self.read(value)}),))
        return found[0] if found else Box(ports=())


def compare(found: Conditions, left: Any, operator: str, right: Any, sets: Sets) -> None:
    """Add a comparison. Raises UnknownError; KeyError, TypeError, ValueError for what nft does not print."""
    special = next((read for key, read in _SPECIAL.items() if key in left), None)
    negated = operator == "!="
    if special is not None and special(found, left, values(right, sets), negated):
        return
    fields = [_field(one) for one in left.get("concat", [left])]
    scope: Region = boxes.EVERYTHING
    for field in fields:
        scope = boxes.intersect(scope, (field.scope,))
    found.within(scope)
    if _is_dynamic(right, sets):
        if [field.side for field in fields] != ["source"]:
            raise UnknownError(f"members of {right} come and go")
        found.affinity = True
        return
    region = _region(fields, operator, right, sets)
    if not boxes.intersect(region, scope) and not negated:
        raise UnknownError(packetfilter.PROTOCOL)
    found.within(region, negated=negated)


def values(right: Any, sets: Sets) -> tuple[Any, ...]:
    """One, or the members of a set."""
    if isinstance(right, str) and right.startswith("@"):
        return tuple(map(bare, sets[right[1:]].elements))
    if isinstance(right, dict) and "set" in right:
        return tuple(map(bare, right["set"] if isinstance(right["set"], list) else [right["set"]]))
    return tuple(right) if isinstance(right, list) else (right,)


def bare(element: Any) -> Any:
    """An element of a set without its comment, counter or timeout."""
    return element["elem"]["val"] if isinstance(element, dict) and "elem" in element else element


def _is_dynamic(right: Any, sets: Sets) -> bool:
    return isinstance(right, str) and right.startswith("@") and sets[right[1:]].dynamic


def _region(fields: Sequence[_Field], operator: str, right: Any, sets: Sets) -> Region:
    if operator in _ORDERS:
        (field,) = fields
        read = field.read(right)
        whole: Ranges = getattr(field.scope, field.side)
        return (field.scope._replace(**{field.side: ranges.intersect(whole, _ORDERS[operator](read))}),)
    if operator not in ("==", "!=", "in"):
        raise UnknownError(f"the comparison {operator!r} is not known here")
    return boxes.merge(box for value in values(right, sets) for box in _element(fields, value))


def _element(fields: Sequence[_Field], value: Any) -> Region:
    parts = value["concat"] if len(fields) > 1 else [value]
    region: Region = boxes.EVERYTHING
    for field, part in zip(fields, parts, strict=True):
        region = boxes.intersect(region, (field.box(part),))
    return region


_TOP = ranges.ADDRESSES[0][1]


def _below(found: Ranges) -> Ranges:
    """Of each protocol by itself: a port of UDP comes behind all of TCP."""
    return ranges.union((low - low % ranges.UDP_OFFSET if _both(found) else 0, low - 1) for low, _ in found)


def _above(found: Ranges) -> Ranges:
    return ranges.union((high + 1, high | (ranges.UDP_OFFSET - 1) if _both(found) else _TOP) for _, high in found)


def _both(found: Ranges) -> bool:
    return len(found) > 1


_ORDERS: dict[str, Callable[[Ranges], Ranges]] = {
    "<": _below,
    ">": _above,
    "<=": lambda found: ranges.union(_below(found) + found),
    ">=": lambda found: ranges.union(_above(found) + found),
}


# -- properties that are a side of a box


def _number(value: Any) -> tuple[int, int]:
    low, high = value["range"] if isinstance(value, dict) else (value, value)
    if not isinstance(low, int) or not isinstance(high, int):
        raise UnknownError(f"{value!r} is a name whose number is not in the rules: nft -nn -j list ruleset has it")
    return low, high


def _ports(value: Any) -> Ranges:
    return ranges.ports(*_number(value))


def _uids(value: Any) -> Ranges:
    return ranges.intersect((_number(value),), ranges.UIDS)


def _addresses(value: Any) -> Ranges:
    if isinstance(value, dict) and "prefix" in value:
        return ranges.network(f"{value['prefix']['addr']}/{value['prefix']['len']}")
    if isinstance(value, dict):
        return ranges.address_range(*value["range"])
    if not isinstance(value, str):
        raise TypeError(value)
    return ranges.network(value)


def _protocol(value: Any) -> Ranges:
    return {"tcp": ranges.TCP, 6: ranges.TCP, "udp": ranges.UDP, 17: ranges.UDP}.get(value, ())


def _family(value: Any) -> Ranges:
    return {"ipv4": ranges.V4, "ip": ranges.V4, 2: ranges.V4, "ipv6": ranges.V6, "ip6": ranges.V6, 10: ranges.V6}.get(
        value, ()
    )


def _of(family: Ranges) -> Box:
    return Box(source=family, destination=family)


_PAYLOADS = {
    ("ip", "saddr"): _Field("source", _addresses, _of(ranges.V4)),
    ("ip", "daddr"): _Field("destination", _addresses, _of(ranges.V4)),
    ("ip6", "saddr"): _Field("source", _addresses, _of(ranges.V6)),
    ("ip6", "daddr"): _Field("destination", _addresses, _of(ranges.V6)),
    ("ip", "protocol"): _Field("ports", _protocol, _of(ranges.V4)),
    ("ip6", "nexthdr"): _Field("ports", _protocol, _of(ranges.V6)),
    ("tcp", "dport"): _Field("ports", _ports, Box(ports=ranges.TCP)),
    ("udp", "dport"): _Field("ports", _ports, Box(ports=ranges.UDP)),
    ("th", "dport"): _Field("ports", _ports),
}
_METAS = {
    "l4proto": _Field("ports", _protocol),
    "nfproto": _Field("source", _family),
    "protocol": _Field("source", _family),
    "skuid": _Field("uids", _uids),
}
_META_REASONS = {
    "mark": packetfilter.MARK,
    "skgid": "groups are not looked at",
    "cgroup": "control groups are not looked at: select by labels, user or executable",
    **dict.fromkeys(("time", "day", "hour"), "a policy holds at all times"),
    **dict.fromkeys(("iif", "oif", "iifname", "oifname", "iiftype", "oiftype", "iifgroup"), packetfilter.INTERFACE),
}


def _field(left: Any) -> _Field:
    if "payload" in left:
        protocol, name = left["payload"].get("protocol", "raw"), left["payload"].get("field", "")
        if (protocol, name) in _PAYLOADS:
            return _PAYLOADS[protocol, name]
        if name == "sport":
            raise UnknownError(packetfilter.SOURCE_PORT)
        known = protocol in ("tcp", "udp", "th", "ip", "ip6", "ether", "raw", "vlan", "arp")
        raise UnknownError(packetfilter.UNSEEN if known else f"{protocol}: {packetfilter.PROTOCOL}")
    if "meta" in left:
        key = left["meta"]["key"]
        if key in _METAS:
            return _METAS[key]
        raise UnknownError(_META_REASONS.get(key, f"meta {key} is not looked at"))
    if "ct" in left:
        raise UnknownError(f"ct {left['ct'].get('key')} is not looked at: a connection is decided when it is made")
    raise UnknownError(_REASONS.get(next(iter(left), ""), packetfilter.UNSEEN))


_REASONS = {
    "fib": "routes and addresses of the host are not in the rules",
    "rt": "routes are not looked at",
    "socket": "sockets are not looked at",
    "osf": packetfilter.UNSEEN,
    "numgen": "a policy decides the same for everybody, not by chance or by what was before",
    "jhash": "a policy decides the same for everybody, not by chance or by what was before",
}


# -- properties that are no side. Each returns whether it was meant.


def _ct(found: Conditions, left: Any, right: Sequence[Any], negated: bool) -> bool:
    if left["ct"].get("key") != "state":
        return False
    found.states([str(one) for one in right], negated=negated)
    return True


def _interface(found: Conditions, left: Any, right: Sequence[Any], negated: bool) -> bool:
    key = left["meta"]["key"]
    if key not in ("iif", "oif", "iifname", "oifname"):
        return False
    names = [str(one) for one in right]
    if len(names) > 1 and "lo" in names and negated:
        names.remove("lo")
    written = f"{key} {'!= ' if negated else ''}{','.join(names)}"
    found.interface(names[0] if len(names) == 1 else "", written, negated=negated)
    return True


def _local(found: Conditions, left: Any, right: Sequence[Any], negated: bool) -> bool:
    fib = left["fib"]
    flags = [fib["flags"]] if isinstance(fib["flags"], str) else fib["flags"]
    if fib["result"] != "type" or flags[0] != "daddr":
        return False
    kinds = {"multicast": MULTICAST, "broadcast": BROADCAST}
    if list(right) == ["local"] and not negated:
        found.local = True
    elif set(right) <= set(kinds):
        found.narrow("destination", ranges.union(one for kind in right for one in kinds[kind]), negated=negated)
    else:
        return False
    return True


def _masked(found: Conditions, left: Any, right: Sequence[Any], negated: bool) -> bool:
    value, mask = left["&"]
    if not _is_flags(value):
        return False
    names = [mask] if isinstance(mask, str) else mask
    wanted = [one for one in right if one != 0]
    found.tcp_flags(_names(names), _names(wanted), negated=negated)
    return True


def _flags(found: Conditions, left: Any, right: Sequence[Any], negated: bool) -> bool:
    if not _is_flags(left):
        return False
    found.tcp_flags(("fin", "syn", "rst", "psh", "ack", "urg"), _names(right), negated=negated)
    return True


def _is_flags(left: Any) -> bool:
    return bool(left == {"payload": {"protocol": "tcp", "field": "flags"}})


def _names(flags: Sequence[Any]) -> tuple[str, ...]:
    found: list[str] = []
    for flag in flags:
        found += _names(flag["|"]) if isinstance(flag, dict) else [str(flag)]
    return tuple(found)


_SPECIAL: dict[str, Callable[[Conditions, Any, Sequence[Any], bool], bool]] = {
    "ct": _ct,
    "meta": _interface,
    "fib": _local,
    "&": _masked,
    "payload": _flags,
}
