"""What users have configured, as control tells it: into routing's tables, and the host's ports that follow from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appswitch import wire
from appswitch.resources import Policy

if TYPE_CHECKING:
    from appswitch.switch.core import Switch


def configure(switch: Switch, message: wire.Configure) -> None:
    """Take a part of the configuration; with its last one apply all, and let everything be decided anew.

    Calls are decided between two parts: by what was configured before, never by the first few of the new policies.
    """
    if message.reset:
        switch.configuring.clear()  # the rest of another one never came
    switch.configuring.append(message)
    if not message.done:
        return
    parts, switch.configuring = switch.configuring, []
    if parts[0].reset:
        _forget_others(switch, parts)
    for part in parts:
        _apply(switch, part)
    switch.table.changed()
    switch.datagrams.table.changed()
    switch.census.regularly()  # after a restart limits hold from the first connection on
    switch.gates.reconcile()
    if switch.delegation.endpoint is not None:
        switch.delegation.endpoint.reconcile()
    switch.resume.begin()
    if switch.early.begin():
        switch.keep.serving()


def _forget_others(switch: Switch, parts: list[wire.Configure]) -> None:
    """What a whole configuration does not mention. The rest is mostly as it was, and then costs next to nothing."""
    switch.clusters.retain(
        {("VService", one.name) for part in parts for one in part.vservices}
        | {("Reference", one.name) for part in parts for one in part.references}
    )
    switch.policies.retain({one.name for part in parts for one in part.policies})
    switch.proxies.clear()


def _apply(switch: Switch, message: wire.Configure) -> None:
    clusters, policies = switch.clusters, switch.policies
    for policy in message.policies:
        _put_policy(switch, policy)
    for proxy in message.proxies:
        switch.proxies.put(proxy)
    for service in message.vservices:
        clusters.put(service)
    for reference in message.references:
        clusters.put(reference)
    for kind, name in message.remove:
        if kind == "Policy":
            policies.remove(name)
            switch.proxies.remove_policy(name)
        elif kind == "Proxy":
            switch.proxies.remove(name)
            switch.delegation.forget(name)
        else:
            clusters.remove(kind, name)


def _put_policy(switch: Switch, policy: Policy) -> None:
    """One with a proxy says where connections go, and forbids nothing."""
    kept, other = (switch.proxies.put_policy, switch.policies.remove)
    if not policy.proxy:
        kept, other = (switch.policies.put, switch.proxies.remove_policy)
    other(policy.name)
    kept(policy)
