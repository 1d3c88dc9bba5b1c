"""What `resources.Policy` says, as plainly as it can be written: every policy is looked at for every connection."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from appswitch.resources import Policy, Selector, matches
from appswitch.routing.policy import End


def allowed(
    policies: Iterable[Policy], client: End, server: End, port: int, protocol: str, attributes: Mapping[str, str]
) -> bool:
    """The three rules."""
    policies = list(policies)

    def match(policy: Policy) -> bool:
        return (
            selects(policy.from_, client)
            and selects(policy.to, server._replace(uid=None, executable=None))
            and has_port(policy, port, protocol)
            and has_attributes(policy, attributes)
        )

    if any(match(one) for one in policies if one.action == "deny"):
        return False
    for direction in ("egress", "ingress"):
        lists = [one for one in policies if (one.action, one.direction) == ("allow", direction)]
        closed = any(closes(one, client, server) for one in lists)
        if closed and not any(map(match, lists)):
            return False
    return True


def closes(policy: Policy, client: End, server: End) -> bool:
    if policy.direction == "egress":
        return selects(policy.from_, client)
    return selects(policy.to, server._replace(uid=None, executable=None))


def selects(selectors: tuple[Selector, ...], end: End) -> bool:
    return not selectors or any(one_selects(one, end) for one in selectors)


def one_selects(selector: Selector, end: End) -> bool:
    labels, ip = dict(end.labels), ipaddress.ip_address(end.ip)
    names = [*([end.name] if end.name else []), *end.vservices]
    return (
        all(labels.get(key) == value for key, value in selector.labels.items())
        and (not selector.names or any(matches(pattern, name) for pattern in selector.names for name in names))
        and (not selector.networks or any(ip in ipaddress.ip_network(network) for network in selector.networks))
        and (not selector.uids or end.uid in selector.uids)
        and (
            not selector.executables
            or (end.executable is not None and any(matches(one, end.executable) for one in selector.executables))
        )
    )


def has_port(policy: Policy, port: int, protocol: str) -> bool:
    return not policy.ports or any(
        one.low <= port <= one.high and one.protocol in (None, protocol) for one in policy.ports
    )


def has_attributes(policy: Policy, attributes: Mapping[str, str]) -> bool:
    def holds(name: str, patterns: tuple[str, ...]) -> bool:
        return name in attributes and any(matches(pattern, attributes[name]) for pattern in patterns)

    return not policy.l7 or any(all(holds(*one) for one in match.items()) for match in policy.l7)
