"""An nginx configuration: servers of http and stream as vservices, who may not come as policies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from appswitch.cli.imports import nginx_access, nginx_file, nginx_reasons, proxy
from appswitch.cli.imports.documents import Names
from appswitch.cli.imports.nginx_file import Directive
from appswitch.cli.imports.nginx_http import Location, Site, locations
from appswitch.cli.imports.nginx_upstream import Choice, PassError, Upstreams, host_patterns
from appswitch.cli.imports.proxy import HOST, MAX_ROUTES, Listener, Pool
from appswitch.cli.imports.report import InputError, Report
from appswitch.resources import L7Match, L7Route, Policy, Resource, Selector, VService, matches

# Of `listen`: not about address and port, and nothing is lost without it.
_ALL_BUT = "it is about all hosts but some, and a pattern cannot ask for what is not"
_PLAIN = frozenset({"default_server", "default", "udp", "reuseport", "http2"})


def resources(text: str, source: str, names: Names, report: Report) -> list[Resource]:
    """Raises InputError for what is no such configuration."""
    tree = nginx_file.parse(text, source, report)
    contexts = [one for one in tree if one.name in ("http", "stream")] or _bare(tree, source)
    found: list[Resource] = []
    for context in contexts:
        made = _Http(context, names, report) if context.name == "http" else _Stream(context, names, report)
        found += made.resources()
    for one in tree:
        if one not in contexts and one.name not in ("upstream", "server", "map", "split_clients"):
            report.leave_out(one.where, one.text, nginx_reasons.ITSELF)
    return found


def _bare(tree: Sequence[Directive], source: str) -> list[Directive]:
    """A file of conf.d stands in http without saying so."""
    if not any(one.name in ("server", "upstream") for one in tree):
        raise InputError(f"{source}: there is no http, stream, server or upstream in it: {nginx_file.GIVE}")
    return [Directive("http", (), source, tuple(tree))]


@dataclass
class _Endpoint:
    """An address, its ports, and the servers that listen there in the order of the file; the first is the default."""

    address: str
    ports: list[int]
    servers: list[Directive] = field(default_factory=list)


class _Context:
    """What http and stream have in common."""

    kind = ""
    port = 0  # where a server listens, and a backend is, that does not say

    def __init__(self, context: Directive, names: Names, report: Report) -> None:
        self.context = context
        self.names = names
        self.report = report
        self.upstreams = Upstreams(context, self.port, report)
        nginx_reasons.tell(context, context.name, report)

    def endpoints(self) -> list[_Endpoint]:
        """Those with the same address and the same servers are one."""
        found: dict[tuple[str, int], list[Directive]] = {}
        for server in self.context.all("server"):
            for line in list(server.all("listen")) or [Directive("listen", (f"*:{self.port}",), server.where)]:
                for one in self._listener(line):
                    for port in one.ports:
                        servers = found.setdefault((one.address, port), [])
                        if server not in servers:
                            servers.insert(
                                0 if {"default_server", "default"} & set(line.args) else len(servers), server
                            )
        merged: list[_Endpoint] = []
        for (address, port), servers in found.items():
            same = next((one for one in merged if one.address == address and one.servers == servers), None)
            if same:
                same.ports.append(port)
            else:
                merged.append(_Endpoint(address, [port], servers))
        return merged

    def _listener(self, line: Directive) -> list[Listener]:
        options = [word for word in line.args[1:] if word not in _PLAIN]
        try:
            if not line.args or line.args[0].startswith("unix:"):
                raise ValueError("a vservice has an address, and is no Unix socket")  # noqa: TRY301 - one way out
            if {"ssl", "quic"} & set(options):
                raise ValueError(proxy.NO_TLS)  # noqa: TRY301
            if "proxy_protocol" in options:
                raise ValueError("clients are not expected to tell who they are")  # noqa: TRY301
            text = line.args[0]
            host, ports = ("", text) if text.replace("-", "").isdigit() else proxy.host_and_ports(text)
            found = proxy.listener(host, ports or str(self.port))
        except ValueError as err:
            self.report.leave_out(line.where, line.text, str(err))
            return []
        if options:
            self.report.leave_out(line.where, " ".join(options), f"of {line.text}: {nginx_reasons.NOTHING}")
        return [found]

    def timed(self, pool: Pool, contexts: Sequence[Directive]) -> Pool:
        """With the time that is given to connect in the innermost context that says so."""
        for context in reversed(contexts):
            line = context.first("proxy_connect_timeout")
            if line and line.args:
                try:
                    return pool._replace(outlier=proxy.connect_timeout(pool.outlier, line.args[0], "s"))
                except ValueError as err:
                    self.report.leave_out(line.where, line.text, str(err))
        return pool

    def vservice(
        self, endpoint: _Endpoint, label: str, chosen: Pool, routes: Sequence[L7Route]
    ) -> tuple[list[VService], Selector]:
        """One, and what selects it."""
        if len(routes) > MAX_ROUTES:
            server = endpoint.servers[0]
            self.report.leave_out(server.where, server.text, f"more than {MAX_ROUTES} routes of a vservice")
        template = chosen.template(proxy.named(routes[:MAX_ROUTES]))
        return proxy.vservices([Listener(endpoint.address, tuple(endpoint.ports))], label, self.names, template)

    def route(self, choice: Choice, match: L7Match, chosen: Pool, where: Directive) -> L7Route | None:
        """For what matches both."""
        both = dict(choice.match)
        for attribute, patterns in match.items():
            if both.setdefault(attribute, patterns) != patterns:
                why = f"{attribute} would have to match two patterns at once"
                self.report.leave_out(where.where, where.text, why)
                return None
        if not choice.pool.backends:
            self.report.leave_out(where.where, where.text, "none of its servers can be a backend")
            return None
        different = proxy.differences(choice.pool, chosen)
        if different:
            self.report.leave_out(where.where, where.text, different)
        return L7Route(match=both, backends=choice.pool.backends, name=choice.name)

    def unused(self) -> None:
        """Upstreams that nothing leads to."""
        for one in self.upstreams.unused():
            self.report.leave_out(one.where, one.text, "no server that is imported passes to it")


class _Stream(_Context):
    """Connections as they are; by the name in TLS's first message, where a map chooses."""

    kind = "stream"

    def resources(self) -> list[Resource]:
        found: list[Resource] = []
        for endpoint in self.endpoints():
            found += self._endpoint(endpoint)
        self.unused()
        return found

    def _endpoint(self, endpoint: _Endpoint) -> list[Resource]:
        server = endpoint.servers[0]
        nginx_reasons.tell(server, "stream server", self.report)
        for one in endpoint.servers[1:]:
            self.report.leave_out(one.where, one.text, "another server has the same address and port")
        target = server.first("proxy_pass")
        try:
            choices = self._choices(server, target)
        except PassError as err:
            line = target or server
            self.report.leave_out(line.where, line.text, str(err))
            return []
        pools = [one._replace(pool=self.timed(one.pool, (self.context, server))) for one in choices]
        chosen = next((one.pool for one in pools if not one.match), Pool())
        routes = [self.route(one, {}, chosen, server) for one in pools if one.match]
        label = choices[0].name if len(choices) == 1 else f"stream-{endpoint.ports[0]}"
        made, selector = self.vservice(endpoint, label, chosen, [one for one in routes if one])
        rules = nginx_access.rules((self.context, server), "ECONNREFUSED", self.report)
        return [*made, *proxy.access(rules, selector, made[0].name, self.names, self.report)]

    def _choices(self, server: Directive, target: Directive | None) -> list[Choice]:
        if target is None or not target.args:
            raise PassError("it passes to nobody")
        if _is_on(server, "proxy_protocol") or _is_on(server, "proxy_ssl"):
            raise PassError("servers are told nothing that the client did not say: no TLS, no PROXY header")
        found = self.upstreams.choices(target.args[0])
        if (
            any(one.match for one in found)
            and not _is_on(server, "ssl_preread")
            and not _is_on(self.context, "ssl_preread")
        ):
            raise PassError("ssl_preread is not on")
        return found


class _Http(_Context):
    """By host and path of the first request."""

    kind = "http"
    port = 80

    def resources(self) -> list[Resource]:
        found: list[Resource] = []
        sites = {id(server): self._site(server) for server in self.context.all("server")}
        for endpoint in self.endpoints():
            found += self._endpoint(endpoint, [sites[id(server)] for server in endpoint.servers])
        self.unused()
        return found

    def _site(self, server: Directive) -> Site:
        nginx_reasons.tell(server, "server", self.report)
        hosts = []
        for line in server.all("server_name"):
            for name in line.args:
                try:
                    if name not in ("", "_"):
                        hosts.append(host_patterns(name))
                except ValueError as err:
                    self.report.leave_out(line.where, f"server_name {name}", str(err))
        found = locations(server, self.upstreams, self.report)
        timed = [self._timed(one, server) for one in found]
        return Site(server, _exact_together(hosts), timed)

    def _timed(self, location: Location, server: Directive) -> Location:
        contexts = (self.context, server, location.directive)
        return location._replace(
            choices=tuple(one._replace(pool=self.timed(one.pool, contexts)) for one in location.choices)
        )

    def _endpoint(self, endpoint: _Endpoint, sites: Sequence[Site]) -> list[Resource]:
        default = sites[0]
        chosen = default.fallback()
        if not any(site.passes for site in sites):
            self.report.leave_out(default.server.where, default.server.text, "it passes to nobody")
            return []
        if chosen is None:
            why = "requests that no location takes are nginx's own: here they wait, and fail"
            self.report.leave_out(default.server.where, default.server.text, why)
        routes = list(self._routes(sites, chosen or Pool()))
        names = default.server.first("server_name")
        label = next((word for word in (names.args if names else ()) if word != "_"), "") or "http"
        made, selector = self.vservice(endpoint, label, chosen or Pool(), routes)
        found = list(self._policies(sites, selector, made[0].name))
        if routes or any(one.l7 for one in found):
            self.report.leave_out(default.server.where, default.server.text, proxy.FIRST_REQUEST)
        return [*made, *found]

    def _routes(self, sites: Sequence[Site], chosen: Pool) -> Iterator[L7Route]:
        """By host in nginx's order, then those of the default server for every host."""
        others = [pattern for site in sites[1:] for _, patterns in site.hosts for pattern in patterns]
        named = [(rank, patterns, site) for site in sites[1:] for rank, patterns in site.hosts]
        for rank, patterns in sites[0].hosts:  # only where another server's would match as well
            if any(matches(one, mine) for one in others for mine in patterns):
                named.append((rank, patterns, sites[0]))
        for _, patterns, site in sorted(named, key=lambda one: one[0]):
            yield from self._of_site(site, {HOST: patterns}, chosen)
        yield from self._of_site(sites[0], {}, chosen)

    def _of_site(self, site: Site, host: L7Match, chosen: Pool) -> Iterator[L7Route]:
        for location in site.locations:
            for choice in location.choices:
                match = location.match | host
                if not match and not choice.match:  # the vservice's own
                    continue
                made = self.route(choice, match, chosen, location.directive)
                if made:
                    yield made

    # -- who may not come

    def _policies(self, sites: Sequence[Site], to: Selector, label: str) -> Iterator[Policy]:
        for site in sites:
            rules = nginx_access.rules((self.context, site.server), "EACCES", self.report)
            special = [one for one in site.every if nginx_access.has_own(one.directive)]
            host = {} if len(sites) == 1 else site.host
            if rules and special:
                why = "locations have lists of their own, and a denial here would win over them"
                self.report.leave_out(rules[0].where, rules[0].text, why)
            elif rules and len(sites) > 1 and (site is sites[0] or not site.hosts):
                self.report.leave_out(rules[0].where, rules[0].text, _ALL_BUT)
            elif rules:
                yield from proxy.access(rules, to, label, self.names, self.report, (host,) if host else ())
            for location in special:
                yield from self._of_location(location, site, sites, to, label)

    def _of_location(
        self, location: Location, site: Site, sites: Sequence[Site], to: Selector, label: str
    ) -> Iterator[Policy]:
        rules = nginx_access.rules((location.directive,), "EACCES", self.report)
        if not rules:
            return
        why = site.covered(location)
        if len(sites) > 1 and not site.hosts:
            why = why or _ALL_BUT
        if why:
            self.report.leave_out(rules[0].where, rules[0].text, why)
            return
        if len(sites) > 1 and site is sites[0]:
            why = "only for the hosts that the server names, and not for others that come to it"
            self.report.leave_out(rules[0].where, rules[0].text, why)
        match = location.match | (site.host if len(sites) > 1 else {})
        yield from proxy.access(rules, to, label, self.names, self.report, (match,) if match else ())


def _exact_together(
    hosts: Sequence[tuple[tuple[int, int], tuple[str, ...]]],
) -> list[tuple[tuple[int, int], tuple[str, ...]]]:
    """Names without a wildcard are patterns of one match."""
    exact = tuple(pattern for rank, patterns in hosts for pattern in patterns if rank == (0, 0))
    return [*([((0, 0), exact)] if exact else []), *(one for one in hosts if one[0] != (0, 0))]


def _is_on(context: Directive, name: str) -> bool:
    line = context.first(name)
    return line is not None and line.args == ("on",)
