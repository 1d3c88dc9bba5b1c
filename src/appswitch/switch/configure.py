"""What users have configured, as control tells it: into routing's tables, and the host's ports that follow from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appswitch import wire

if TYPE_CHECKING:
    from appswitch.switch.core import Switch


def configure(switch: Switch, message: wire.Configure) -> None:
    """Apply a change, and let everything be decided anew."""
    clusters, policies = switch.clusters, switch.policies
    if message.reset:
        clusters.clear()
        policies.reset()
    for policy in message.policies:
        policies.put(policy)
    for service in message.vservices:
        clusters.put(service)
    for reference in message.references:
        clusters.put(reference)
    for kind, name in message.remove:
        if kind == "Policy":
            policies.remove(name)
        else:
            clusters.remove(kind, name)
    switch.table.changed()
    switch.datagrams.table.changed()
    if message.done:
        switch.census.regularly()  # after a restart limits hold from the first connection on
        switch.gates.reconcile()
        switch.early.begin()
