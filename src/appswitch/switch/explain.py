"""`ax policy test`: what would become of a connection, step by step."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from appswitch import wire
from appswitch.address import Address, ip_bytes, ip_text, unmap
from appswitch.resources import BackendSpec
from appswitch.routing.clusters import Upstream
from appswitch.routing.policy import End
from appswitch.routing.route import Balanced, Delegate, Deny, Flow, Home, Leave, Local, Outside, Verdict, Wait, route
from appswitch.switch.apps import App

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

_NOBODYS = BackendSpec()
SHOWN = 8  # backends that are explained one by one


def explain(switch: Switch, question: wire.Explain) -> wire.Explained | wire.Done:
    """Answer it as routing decides it now; nothing is connected, counted or logged."""
    app = switch.apps.get(question.client)
    if app is None:
        return wire.Done(seq=question.seq, error="no-such-app", detail=f"no app {question.client:08x} runs")
    host, _, port = question.to.rpartition(":")
    try:
        to = Address(unmap(ip_bytes(host.strip("[]"))), int(port))
    except ValueError:
        return wire.Done(seq=question.seq, error="bad-request", detail=f"{question.to!r} is not an address and port")
    flow = _flow(switch, app, to, question)
    world = switch.world if question.protocol == "tcp" else switch.datagrams.world
    verdict = route(flow, world)
    if isinstance(verdict, Balanced) and verdict.hold is not None and question.attributes:
        verdict = route(flow._replace(attributes=dict(question.attributes)), world)
    steps = (*_steps(switch, flow, to, question), _sentence(verdict))
    denied = isinstance(verdict, Deny)
    return wire.Explained(
        seq=question.seq, allowed=not denied, steps=steps, rule=getattr(verdict, "rule", ""),
        error=errno.errorcode.get(verdict.error, "") if isinstance(verdict, Deny) else "",
    )  # fmt: skip


def _flow(switch: Switch, app: App, to: Address, question: wire.Explain) -> Flow:
    client = app.end(app.source_for(to.ip, switch.node_ips))
    client = client._replace(uid=question.uid, executable=question.executable)
    leave = Leave(app.may_reach, app.rules.error)
    attributes = dict(question.attributes) or None
    return Flow(client, to, app.spec.netns == "host", leave, question.protocol, attributes)


def _steps(switch: Switch, flow: Flow, to: Address, question: wire.Explain) -> Iterator[str]:
    """What is there, and what the policies say of each server that could be meant."""
    client = flow.client
    yield f"client: app {client.app_id:08x} {client.name or '(no name)'} {_labels(client)}"
    cluster = switch.clusters.find(to) if question.protocol == "tcp" else None
    if cluster is not None:
        yield f"{to} is {cluster.kind} {cluster.name}"
        specs = tuple(spec for one in cluster.routes for spec in one.backends)
        port = cluster.port.target if cluster.port is not None else to.port
        servers = tuple(switch.clusters.upstreams(specs, port, switch.table))
    else:
        if question.protocol == "tcp" and switch.clusters.owns(to.ip):
            yield f"no vservice has port {to.port} of {ip_text(to.ip)}"
        servers = tuple(_listeners(switch, to, question))
    for upstream in servers[:SHOWN]:
        yield from _of(switch, flow, upstream, (cluster.name,) if cluster is not None else ())
    if len(servers) > SHOWN:
        yield f"... and {len(servers) - SHOWN} more servers"


def _listeners(switch: Switch, to: Address, question: wire.Explain) -> Iterator[Upstream]:
    table = switch.table if question.protocol == "tcp" else switch.datagrams.table
    there = table.by_address.get(to, ())
    for app_id in dict.fromkeys(e.app_id for e in there):
        yield Upstream(to, table.members.get(app_id), tuple(e for e in there if e.app_id == app_id), _NOBODYS)
    if not there and to.ip not in table.by_ip and not switch.clusters.owns(to.ip):
        yield Upstream(to, None, (), _NOBODYS)


def _of(switch: Switch, flow: Flow, upstream: Upstream, names: tuple[str, ...]) -> Iterator[str]:
    member, address = upstream.member, upstream.address
    if member is None:
        server = End(0, "", names, frozenset(), address.ip, None, None)
        yield f"server: {address}, outside"
    else:
        server = End(member.id, member.name, names, member.labels, address.ip, None, None)
        yield f"server: app {member.id:08x} {member.name or '(no name)'} at {address} {_labels(server)}"
        if not upstream.endpoints:
            yield f"it does not listen on port {address.port}"
        if flow.client.labels.isdisjoint(member.labels) and member.id != flow.client.app_id:
            yield "client and server share no label: it is not reachable"
            return
    attributes = flow.attributes if flow.protocol == "tcp" else {}
    yield from switch.policies.explain(flow.client, server, address.port, flow.protocol, attributes)


def _sentence(verdict: Verdict) -> str:
    match verdict:
        case Local(endpoints=endpoints):
            return f"allowed: to {len(endpoints)} listener{'s' if len(endpoints) > 1 else ''} of this host"
        case Balanced(hold=peek) if peek is not None:
            return f"held for its first bytes (at most {peek.milliseconds} ms), then decided"
        case Balanced(cluster=cluster, upstreams=upstreams, route=chosen):
            by = f" by route {chosen.name}" if len(cluster.routes) > 1 else ""
            return f"allowed: to one of {len(upstreams)} backends of {cluster.name}{by}"
        case Delegate(proxy=proxy):
            if proxy is None:
                return "held for its first bytes, which tell whether a proxy gets it"
            return f"handed to the proxy {proxy.name}"
        case Wait(seconds=seconds):
            return f"waits up to {seconds:g} s for a server to come up"
        case Outside(to=to):
            return f"allowed: to {to} on the host's network"
        case Home(to=to):
            return f"allowed: to {to}, the daemon's name server"
        case Deny(error=error, rule=rule):
            return f"denied: {errno.errorcode.get(error, error)}" + (f", by {rule}" if rule else ", nobody is there")


def _labels(end: End) -> str:
    return ",".join(sorted(f"{key}={value}" for key, value in end.labels)) or "(no labels)"
