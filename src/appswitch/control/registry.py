"""Registrations: from a checked request to an app that the switch knows and a token that its launcher attaches with."""

from __future__ import annotations

import secrets
import time
from collections.abc import Container

import msgspec
import structlog

from appswitch.control import ports, resolvconf
from appswitch.control.access import Caller
from appswitch.control.claims import Claims
from appswitch.control.link import Event, SwitchLink
from appswitch.control.pools import Pools
from appswitch.control.problems import SLUGS, ProblemError
from appswitch.control.resources.catalog import Catalog
from appswitch.control.roster import Roster
from appswitch.control.settings import Settings
from appswitch.model import DEFAULT_LABELS, AppPhase, AppSpec, Egress, Expose, HostPort, Netns, Transport
from appswitch.wire import AppChanged, AppGone, Done

TOKEN_BYTES = 32
EXPIRES = 30.0  # seconds in which a launcher has to attach
MAX_WAITING = 512  # registrations of one user that no launcher has used yet
FIRST_FREE_PORT = 1024  # below it a port is root's to give, ip(7)

_log = structlog.get_logger(part="registry")


class NewApp(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants to run: every value is checked already (`validate`)."""

    command: tuple[str, ...]
    name: str | None = None
    ips: tuple[str, ...] = ()
    labels: dict[str, str] | None = None  # None: the default ones
    expose: tuple[Expose, ...] = ()
    netns: Netns = "new"
    transport: Transport | None = None  # None: the daemon's default
    interface: str | None = None
    nameservers: tuple[str, ...] = ()
    dns_override: bool = False  # its resolv.conf is the daemon's
    egress: Egress = Egress()
    host_ports: tuple[HostPort, ...] = ()
    proxy: str | None = None


class Registration(msgspec.Struct, frozen=True):
    """An app that the switch knows now, and what its launcher proves that with."""

    app: AppSpec
    token: bytes
    expires: float  # seconds
    resolv_conf: str | None = None  # a file that the app sees as /etc/resolv.conf


class AppIds:
    """Identifiers 1..2**32-1 in an order without repetition, from a random start: none is used twice.

    A linear congruential generator whose period is the whole range (Hull and Dobell: odd increment, multiplier - 1
    divisible by 4). They are names, not secrets.
    """

    def __init__(self, start: int | None = None) -> None:
        self._last = secrets.randbits(32) if start is None else start

    def next(self, used: Container[int]) -> int:
        """The next one that is not among ``used``."""
        while True:
            self._last = (1664525 * self._last + 1013904223) % (1 << 32)
            if self._last and self._last not in used:
                return self._last


class Registry:
    """Who may register what, and the asking of the switch."""

    def __init__(self, link: SwitchLink, settings: Settings) -> None:
        self.link = link
        self.settings = settings
        self.node = settings.node
        self.cluster = settings.cluster
        self.transport: Transport = settings.transport
        pools = Pools(settings.pools)
        self.catalog = Catalog(pools)  # what is configured: `resources.service` fills it
        self.roster = Roster()  # also of those that the switch was told of and has not answered yet
        self.claims = Claims(pools, settings.user_networks, self.catalog, self.roster)
        self.stopping = False
        self._ids = AppIds()
        link.on_event.append(self._take)

    async def register(self, new: NewApp, caller: Caller) -> Registration:
        """Raises ProblemError: not allowed, taken by another user, refused by the switch."""
        if self.stopping:
            raise ProblemError("stopping", "the daemon is about to end")
        caller.must_write()
        self._check_ports(new, caller)
        if new.dns_override and not self.settings.dns:
            raise ProblemError("dns-off", "the daemon answers no DNS queries (--no-dns): leave --dns-override away")
        await self.link.synced()  # from here to where the app is in the roster nobody else comes between
        self._check_number(caller)
        self.claims.check_proxy(new.proxy, caller)
        ips = self.claims.addresses(new.name, new.ips, caller)
        app = AppSpec(
            id=self._ids.next(self.roster),
            uid=caller.uid,
            gid=caller.gid,
            node=self.node,
            cluster=self.cluster,
            command=new.command,
            created=time.time(),
            name=new.name,
            ips=ips,
            labels=dict(DEFAULT_LABELS) if new.labels is None else new.labels,
            expose=ports.draw(new.expose, self.settings.ports, self.roster.host_ports(), ports.is_free),
            netns=new.netns,
            transport=new.transport or self.transport,
            interface=new.interface,
            nameservers=self._nameservers(new),
            egress=new.egress,
            host_ports=new.host_ports,
            proxy=new.proxy,
        )
        resolv_conf = resolvconf.write(self.settings.run_dir, self.settings.dns_domain) if new.dns_override else None
        token = secrets.token_bytes(TOKEN_BYTES)
        self.roster.put(app, waiting=True)
        try:
            _raise_refusal(await self.link.register(app, token, EXPIRES))
        finally:
            if app.id not in self.link.apps:
                self.roster.drop(app.id)
        _log.debug("registered", appid=app.appid, uid=app.uid, name=app.name, ips=app.ips)
        return Registration(app=app, token=token, expires=EXPIRES, resolv_conf=resolv_conf)

    async def forget(self, app_id: int, caller: Caller) -> None:
        """Drop a registration that no launcher has used. Raises ProblemError."""
        row = self.link.apps.get(app_id)
        if row is None or not caller.sees(row.app):
            raise ProblemError("no-such-app", f"no app has the id {app_id:08x}")
        caller.must_own(row.app)
        if row.phase is AppPhase.RUNNING:
            raise ProblemError("app-running", f"app {app_id:08x} runs: it is forgotten when its last process ends")
        _raise_refusal(await self.link.forget(app_id))

    def apps(self) -> list[AppSpec]:
        """All that are registered or running, the oldest first."""
        return sorted(self.roster, key=lambda app: app.created)

    def _take(self, event: Event) -> None:
        match event:
            case AppChanged(row):
                self.roster.put(row.app, waiting=row.phase is AppPhase.REGISTERED)
            case AppGone(app_id):
                self.roster.drop(app_id)

    def _check_ports(self, new: NewApp, caller: Caller) -> None:
        for one in new.expose:
            if 0 < one.host_port < FIRST_FREE_PORT and caller.uid != 0:
                raise ProblemError("privileged-port", f"only root may expose on the host's port {one.host_port}")

    def _nameservers(self, new: NewApp) -> tuple[str, ...]:
        """The daemon answers in namespaces that are the app's alone."""
        if not self.settings.dns or new.netns == "host":
            return ()
        return (resolvconf.NAMESERVER,) if new.dns_override else new.nameservers

    def _check_number(self, caller: Caller) -> None:
        if not caller.admin and self.roster.waiting(caller.uid) >= MAX_WAITING:
            raise ProblemError("too-many", f"{MAX_WAITING} registrations wait for their launchers already")


def _raise_refusal(done: Done) -> None:
    """Raises ProblemError if the switch said no. Its slugs are ours where we know them."""
    if done.error:
        raise ProblemError(done.error if done.error in SLUGS else "conflict", done.detail or done.error)
