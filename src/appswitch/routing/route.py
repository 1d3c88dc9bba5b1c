"""Flow -> Verdict."""

from __future__ import annotations

import errno
from typing import NamedTuple

from appswitch.address import Address, is_any, is_loopback, loopback_like
from appswitch.routing.table import Endpoint, Labels, Table


class Flow(NamedTuple):
    """A connection that an app wants to make. ``to`` is the virtual address it asked for."""

    app_id: int
    labels: Labels
    to: Address
    host_loopback: bool  # the app shares the host's network: its loopback is the host's where it does not listen itself


class Local(NamedTuple):
    """Connect to one of these listeners on this host, each as good as the other; ``to`` is the destination they see."""

    endpoints: tuple[Endpoint, ...]
    to: Address


class Outside(NamedTuple):
    """Connect to this address on the host's own network."""

    to: Address


class Home(NamedTuple):
    """Connect by TCP to this address in the app's own network namespace."""

    to: Address


class Deny(NamedTuple):
    """Fail with this errno."""

    error: int


Verdict = Local | Outside | Home | Deny

REFUSED = Deny(errno.ECONNREFUSED)


def route(flow: Flow, table: Table) -> Verdict:
    """Decide. Loopback is the app itself; a virtual address is whoever listens there and shares a label.

    The rest is outside.
    """
    to = flow.to
    if is_any(to.ip):  # RFC 1122 3.2.1.3: "this host"; Linux connects to loopback
        to = Address(loopback_like(to.ip), to.port)
    if is_loopback(to.ip):
        own = tuple(e for e in table.by_app.get((flow.app_id, to.port), ()) if e.covers(to.ip))
        if own:
            return Local(_most_specific(own, to), to)
        return Outside(to) if flow.host_loopback else REFUSED
    there = table.by_address.get(to)
    if there is None:
        return REFUSED if to.ip in table.owners else Outside(to)
    reachable = tuple(e for e in there if e.app_id == flow.app_id or not flow.labels.isdisjoint(e.labels))
    return Local(_most_specific(reachable, to), to) if reachable else REFUSED


def _most_specific(endpoints: tuple[Endpoint, ...], to: Address) -> tuple[Endpoint, ...]:
    """Within an app a socket bound to the very address gets what would reach a wildcard, too; as in the kernel."""
    if len(endpoints) == 1:
        return endpoints
    exact = {e.app_id for e in endpoints if e.bound.ip == to.ip}
    return tuple(e for e in endpoints if e.bound.ip == to.ip or e.app_id not in exact) if exact else endpoints
