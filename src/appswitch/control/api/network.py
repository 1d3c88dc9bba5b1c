"""/v1/names, pools, exposed: the virtual network as its users named it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from fastapi import APIRouter
from pydantic import Field

from appswitch.address import ANY4, ANY6, Address, ip_bytes
from appswitch.control.api.deps import RESPONSES, TheCaller, TheParts
from appswitch.control.api.views import AppId, Proto, View
from appswitch.control.pools import addresses_of
from appswitch.control.resources.catalog import addresses
from appswitch.control.roster import Either
from appswitch.model import AppSpec, Expose, ServerRow
from appswitch.resources import Resource, VService

router = APIRouter(prefix="/v1", tags=["network"], responses=RESPONSES)


class Name(View):
    """A name, and what it stands for."""

    name: str
    fqdn: str = Field(description="With the domain of the daemon's DNS server.")
    source: Literal["apps", "vservice", "reference"] = Field(description="Who says so: what is configured goes first.")
    addresses: list[str] = Field(description="What it resolves to, IPv4 first.")
    apps: list[AppId] = Field(description="That are called so.")


class Names(View):
    """Reply to GET /v1/names."""

    names: list[Name]


class Pool(View):
    """A network from which apps with a name alone, and vservices without addresses, get them."""

    network: str
    used: int = Field(description="Addresses of it that apps and services have, drawn or not.")
    size: int = Field(description="Addresses that can be drawn.")
    source: Literal["given", "chosen"] = Field(description="By --pools, or by the daemon: a network the host has not.")


class Pools(View):
    """Reply to GET /v1/pools."""

    pools: list[Pool]


class Exposed(View):
    """A port of the host that leads to an app."""

    appid: AppId
    name: str | None
    internal: int = Field(description="The app's port.")
    address: str = Field(description="Address and port of the host.")
    proto: Proto
    state: Literal["open", "waiting"] = Field(description="Waiting: the app does not listen yet.")


class AllExposed(View):
    """Reply to GET /v1/exposed."""

    exposed: list[Exposed]


@router.get("/names")
async def list_names(parts: TheParts, caller: TheCaller) -> Names:
    """Every name of apps, vservices and references that you may see."""
    apps: dict[str, list[AppSpec]] = {}
    for app in parts.registry.apps():
        if app.name is not None and caller.sees(app):
            apps.setdefault(app.name, []).append(app)
    entries = [one.resource for one in parts.resources.catalog.entries() if caller.sees_owner(one.resource.uid)]
    configured = {one.name: one for one in entries if addresses(one)}
    names = sorted(apps.keys() | configured.keys())
    domain = parts.settings.dns_domain
    return Names(names=[_name(f"{name}.{domain}", apps.get(name, []), configured.get(name)) for name in names])


def _name(fqdn: str, apps: list[AppSpec], configured: Resource | None) -> Name:
    ips = addresses(configured) if configured else tuple(ip for app in apps for ip in app.ips)
    return Name(
        name=fqdn.partition(".")[0],
        fqdn=fqdn,
        source="apps" if configured is None else "vservice" if isinstance(configured, VService) else "reference",
        addresses=list(map(str, sorted(addresses_of(ips), key=lambda ip: (ip.version, ip)))),
        apps=[app.appid for app in apps],
    )


@router.get("/pools")
async def list_pools(parts: TheParts, _: TheCaller) -> Pools:
    """Where addresses are drawn from, and how many are left."""
    taken = Either(parts.registry.roster.taken, *parts.resources.catalog.pooled())
    source: Literal["given", "chosen"] = "given" if parts.settings.pools_given else "chosen"
    return Pools(
        pools=[
            Pool(network=str(pool.network), used=len(pool.used(taken)), size=pool.size, source=source)
            for pool in parts.registry.claims.pools.pools
        ]
    )


@router.get("/exposed")
async def list_exposed(parts: TheParts, caller: TheCaller) -> AllExposed:
    """Every port of the host that is to lead to an app that you may see."""
    apps = [app for app in parts.registry.apps() if caller.sees(app)]
    return AllExposed(exposed=list(exposed(apps, parts.registry.link.servers.values())))


def exposed(apps: Iterable[AppSpec], servers: Iterable[ServerRow]) -> Iterator[Exposed]:
    """A row for each app, host address and protocol.

    Without an address in `--expose` it is those that are open: the server says which families it is for.
    """
    opened = {(row.app_id, row.proto, row.service_port, actual) for row in servers for actual in row.actual}
    for app in apps:
        for one in app.expose:
            ips = (ip_bytes(one.host_ip),) if one.host_ip else (ANY4, ANY6)
            addresses = [str(Address(ip, one.host_port)) for ip in ips]
            for proto in _protocols(one):
                is_open = [address for address in addresses if (app.id, proto, one.internal, address) in opened]
                for address in is_open or addresses:
                    yield Exposed(
                        appid=app.appid,
                        name=app.name,
                        internal=one.internal,
                        address=address,
                        proto=proto,
                        state="open" if is_open else "waiting",
                    )


def _protocols(one: Expose) -> tuple[Proto, ...]:
    return ("tcp", "udp") if one.protocol is None else (one.protocol,)
