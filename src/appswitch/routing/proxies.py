"""Which proxy a connection is handed to, if any: by a policy, its vservice, its app. See docs/delegation.md.

A connection goes along a chain: from each proxy that does not want it, or hands it on, to the next. Who had it does not
get it again, and a proxy's own connections are never handed to it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import msgspec

from appswitch.address import ip_bytes
from appswitch.resources import Policy, Proxy
from appswitch.routing.patterns import Tests, compiled, hold
from appswitch.routing.policy import End, Policies
from appswitch.routing.table import Endpoint, Table

Attributes = dict[str, str]


@dataclass(slots=True)
class Proxies:
    """The proxies, and the policies that lead to them. One writer: the switch."""

    by_name: dict[str, Proxy] = field(default_factory=dict)
    _wants: dict[str, tuple[Tests, ...]] = field(default_factory=dict)  # the same
    _policies: dict[str, Policy] = field(default_factory=dict)
    # The same policies as ones that "deny": who matches first is who redirects.
    _redirecting: Policies = field(default_factory=Policies)

    def __bool__(self) -> bool:
        return bool(self.by_name or self._policies)

    def put(self, proxy: Proxy) -> None:
        """Add or replace."""
        self.by_name[proxy.name] = proxy
        self._wants[proxy.name] = tuple(map(compiled, proxy.wants))

    def remove(self, name: str) -> None:
        """Unknown ones are ignored."""
        self.by_name.pop(name, None)
        self._wants.pop(name, None)

    def put_policy(self, policy: Policy) -> None:
        """An allow policy with a proxy."""
        self._policies[policy.name] = policy
        self._redirecting.put(msgspec.structs.replace(policy, action="deny", direction="ingress", proxy=""))

    def remove_policy(self, name: str) -> None:
        """Unknown ones are ignored."""
        if self._policies.pop(name, None) is not None:
            self._redirecting.remove(name)

    def clear(self) -> None:
        """Forget everything."""
        self.by_name.clear()
        self._wants.clear()
        self._policies.clear()
        self._redirecting.reset()

    def needs_process(self, client: End) -> bool:
        """Whether which proxy it is may depend on the process: as `Policies.needs_process`."""
        return self._redirecting.needs_process(client)

    def by_policy(self, client: End, server: End, port: int, attributes: Attributes | None) -> Policy | bool | None:
        """The policy that redirects a connection, None, or True: its first bytes have to be known."""
        if not self._policies:
            return None
        decision = self._redirecting.decide(client, server, port, "tcp", attributes)
        if decision.allowed is None:
            return True
        return None if decision.allowed else self._policies.get(decision.rule)

    def first(
        self, name: str, client: End, uid: int, attributes: Attributes | None, had: Collection[str]
    ) -> Proxy | bool | None:
        """The first of a chain that wants the connection, None, or True: its first bytes have to be known.

        ``uid``: who ran the client's app.
        """
        seen = set[str]()
        while name and name not in seen:
            seen.add(name)
            proxy = self.by_name.get(name)
            if proxy is None:
                return None
            if name not in had and not is_own(proxy, client, uid):
                if proxy.wants and attributes is None:
                    return True
                if not proxy.wants or any(hold(tests, attributes or {}) for tests in self._wants[name]):
                    return proxy
            name = proxy.next
        return None


def is_own(proxy: Proxy, client: End, uid: int) -> bool:
    """Whether a connection comes from the proxy itself: from an app of its name, or the one with its listener.

    And of its owner, or root's: an app that merely calls itself so does not get around it.
    """
    if client.app_id == 0 or uid not in (0, proxy.uid):
        return False
    host, _, _ = proxy.listener.rpartition(":")
    if client.name and client.name in (proxy.name, host):
        return True
    return _ip(host) == client.ip


def listeners(proxy: Proxy, table: Table) -> tuple[Endpoint, ...]:
    """Where an unmodified proxy accepts connections: of its owner's apps, or root's."""
    host, _, port = proxy.listener.rpartition(":")
    ip = _ip(host)
    members = table.by_ip.get(ip, {}) if ip is not None else table.by_name.get(host, {})
    owned = [app_id for app_id, member in members.items() if member.uid in (0, proxy.uid)]
    there = (endpoint for app_id in owned for endpoint in table.by_app.get((app_id, int(port)), ()))
    return tuple(endpoint for endpoint in there if ip is None or endpoint.covers(ip))


def accepting(proxy: Proxy, table: Table, ip: bytes) -> tuple[Endpoint, ...]:
    """Those of its `listeners` that can have a connection to ``ip``: an IPv4 socket knows no IPv6 addresses."""
    return tuple(e for e in listeners(proxy, table) if len(e.bound.ip) == len(ip) or (len(ip) == 4 and e.dual))


def _ip(host: str) -> bytes | None:
    try:
        return ip_bytes(host.strip("[]"))
    except ValueError:
        return None
