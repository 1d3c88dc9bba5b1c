"""What is known, in Prometheus' words. Names and labels are documented in docs/observability.md. Pure.

Labels that others choose are bounded: what is beyond a bound is added up under ``other``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from appswitch.control.analyzer.flowlog import OTHER, Series
from appswitch.control.analyzer.meter import Usage
from appswitch.model import AppRow, BackendRow, ConnectionRow, ProxyRow, ServerRow

MAX_APPS = 500  # with series of their own
MAX_BACKENDS = 500
MAX_PROXIES = 500
OPENMETRICS = "application/openmetrics-text"

Labels = tuple[str, ...]
Samples = Mapping[Labels, float]
Kind = Literal["counter", "gauge"]
_FAMILIES: dict[Kind, type[CounterMetricFamily | GaugeMetricFamily]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
}


class Snapshot(Struct, frozen=True, kw_only=True):
    """All that is exposed, of one moment. Of apps and what they have only what the caller may see."""

    version: str
    node: str
    cluster: str
    started: float  # seconds since the epoch
    switch_up: bool
    restarts: int
    stats: Mapping[str, float] = {}
    apps: Sequence[AppRow] = ()
    servers: Sequence[ServerRow] = ()
    connections: Sequence[ConnectionRow] = ()
    backends: Sequence[BackendRow] = ()
    proxies: Sequence[ProxyRow] = ()
    flows: Mapping[Series, int] = {}
    usages: Mapping[int, Usage] = {}
    alive_after: Mapping[int, float] = {}
    dns_cached: int | None = None


class Stat(NamedTuple):
    """How a number of the switch's own is exposed."""

    name: str
    kind: Kind
    help: str
    label: str = ""  # of keys "prefix.VALUE"
    unit: float = 1.0


# By the names of `Switch.stats`; those that end with a dot are prefixes. What the switch does not tell is left out.
STATS: dict[str, Stat] = {
    "services": Stat("appswitch_listening_sockets", "gauge", "TCP sockets of apps that listen."),
    "sockets": Stat("appswitch_sockets", "gauge", "TCP sockets of apps that the switch knows."),
    "datagram_sockets": Stat("appswitch_datagram_sockets", "gauge", "UDP sockets of apps that the switch knows."),
    "datagram_peers": Stat("appswitch_datagram_peers", "gauge", "Peers of UDP sockets that the switch links."),
    "datagrams_carried": Stat(
        "appswitch_datagrams_carried", "counter", "Datagrams that the switch carried over links."
    ),
    "parked": Stat("appswitch_parked_calls", "gauge", "System calls that wait for something to happen."),
    "calls.": Stat("appswitch_calls", "counter", "System calls that were answered.", "call"),
    "at_once.": Stat("appswitch_calls_at_once", "counter", "Of these, calls that needed no decision any more.", "call"),
    "nanoseconds.": Stat(
        "appswitch_call_seconds", "counter", "Time spent in answering, if the daemon measures it.", "call", 1e-9
    ),
    "flows.": Stat("appswitch_flows", "counter", "Decisions about connections.", "verdict"),
    "denied": Stat("appswitch_denied_flows", "counter", "Connections that a policy denied."),
    "dry_run_denied": Stat(
        "appswitch_dry_run_denied_flows", "counter", "Connections that a dry-run policy would deny."
    ),
    "waiting": Stat("appswitch_waiting_connections", "gauge", "Connections that wait for a service to come up."),
    "held": Stat("appswitch_held_connections", "gauge", "Connections that are held for their first bytes."),
    "spliced": Stat("appswitch_spliced_connections", "counter", "Connections that a splice(2) relay carried."),
    "spliced_bytes": Stat("appswitch_spliced_bytes", "counter", "Bytes that splice(2) relays carried."),
    "ejections": Stat("appswitch_backend_ejections", "counter", "Times that a backend was ejected as an outlier."),
}

# Of an app: metric, type, meaning, value.
USAGES: tuple[tuple[str, Kind, str, Callable[[Usage], float]], ...] = (
    ("appswitch_app_processes", "gauge", "Processes of the app.", lambda one: one.now.processes),
    ("appswitch_app_threads", "gauge", "Threads of the app.", lambda one: one.now.threads),
    ("appswitch_app_open_descriptors", "gauge", "Descriptors that the app has open.", lambda one: one.now.descriptors),
    ("appswitch_app_cpu_seconds", "counter", "CPU time that the app has used.", lambda one: one.now.cpu),
    ("appswitch_app_resident_bytes", "gauge", "Memory of the app that is resident.", lambda one: one.now.resident),
    (
        "appswitch_app_anonymous_bytes",
        "gauge",
        "Memory of the app that is resident and no file's: heap and stacks.",
        lambda one: one.now.anonymous,
    ),
    ("appswitch_app_data_bytes", "gauge", "Heap and private mappings, touched or not.", lambda one: one.now.data),
    ("appswitch_app_stack_bytes", "gauge", "Stacks of first threads.", lambda one: one.now.stack),
    (
        "appswitch_app_anonymous_growth_bytes",
        "gauge",
        "Heap and stacks in memory, less what they were when the app attached.",
        lambda one: one.growth.anonymous,
    ),
    (
        "appswitch_app_stack_growth_bytes",
        "gauge",
        "Stacks of first threads, less what they were when the app attached.",
        lambda one: one.growth.stack,
    ),
)


# Of a proxy: metric, type, meaning, value.
PROXIES: tuple[tuple[str, Kind, str, Callable[[ProxyRow], float]], ...] = (
    ("appswitch_proxy_active_connections", "gauge", "Connections that a proxy has.", lambda one: one.active),
    ("appswitch_proxy_taken_connections", "counter", "Connections that a proxy has taken.", lambda one: one.taken),
    (
        "appswitch_proxy_passed_connections",
        "counter",
        "Connections that a proxy let go on the fast path.",
        lambda one: one.passed,
    ),
    (
        "appswitch_proxy_dropped_connections",
        "counter",
        "Connections that a proxy has dropped.",
        lambda one: one.dropped,
    ),
    (
        "appswitch_proxy_handed_on_connections",
        "counter",
        "Connections that a proxy handed on to the next.",
        lambda one: one.handed_on,
    ),
    (
        "appswitch_proxy_failures",
        "counter",
        "Connections that a proxy did not answer for in time, or had no room for.",
        lambda one: one.failed,
    ),
)


def expose(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """The text and its media type: OpenMetrics for who accepts it, else Prometheus' own format."""
    registry = CollectorRegistry()
    registry.register(_Once(families(snapshot)))
    # Versions are not looked at: what we say is the same in all of them.
    encode, media_type = choose_encoder(OPENMETRICS if OPENMETRICS in accept.lower() else "")
    return encode(registry), media_type


class _Once(Collector):
    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = list(found)

    def collect(self) -> Iterable[Metric]:
        """Again and again the same."""
        return self._found


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """Every metric with its samples."""
    yield from _daemon(snapshot)
    yield from _stats(snapshot.stats)
    yield from _flows(snapshot.flows)
    yield from _backends(snapshot.backends)
    yield from _proxies(snapshot.proxies)
    yield from _apps(snapshot)


def _family(kind: Kind, name: str, text: str, labels: Sequence[str], samples: Samples) -> Metric:
    made: CounterMetricFamily | GaugeMetricFamily = _FAMILIES[kind](name, text, labels=labels)
    for values, value in samples.items():
        made.add_metric(values, value)
    return made


def _one(kind: Kind, name: str, text: str, value: float) -> Metric:
    return _family(kind, name, text, (), {(): value})


def _counted(labels: Iterable[Labels]) -> Samples:
    return Counter(labels)


def _daemon(snapshot: Snapshot) -> Iterator[Metric]:
    known = {"version": snapshot.version, "node": snapshot.node, "cluster": snapshot.cluster}
    yield InfoMetricFamily("appswitch_build", "The daemon.", value=known)
    yield _one("gauge", "appswitch_start_time_seconds", "When control was started, since the epoch.", snapshot.started)
    yield _one("gauge", "appswitch_switch_up", "Whether the switch answers.", snapshot.switch_up)
    yield _one(
        "counter", "appswitch_switch_restarts", "Switches that were replaced, as control saw it.", snapshot.restarts
    )
    phases = _counted((row.phase.value,) for row in snapshot.apps)
    yield _family("gauge", "appswitch_apps", "Apps that are known.", ("phase",), phases)
    servers = _counted((row.proto,) for row in snapshot.servers)
    yield _family("gauge", "appswitch_servers", "Lines of the service table.", ("protocol",), servers)
    connections = _counted((row.proto, row.transport) for row in snapshot.connections)
    labels = ("protocol", "transport")
    yield _family("gauge", "appswitch_connections", "Established connections of apps.", labels, connections)
    if snapshot.dns_cached is not None:
        text = "Answers of other name servers that are kept."
        yield _one("gauge", "appswitch_dns_cache_entries", text, snapshot.dns_cached)


def _stats(stats: Mapping[str, float]) -> Iterator[Metric]:
    found: defaultdict[str, dict[Labels, float]] = defaultdict(dict)
    for key, value in stats.items():
        prefix, dot, rest = key.partition(".")
        if stat := STATS.get(prefix + dot):
            found[prefix + dot][(rest,) if dot else ()] = value * stat.unit
    for key, samples in found.items():
        stat = STATS[key]
        if stat.unit != 1.0 and not any(samples.values()):
            continue  # times are not measured
        yield _family(stat.kind, stat.name, stat.help, (stat.label,) if stat.label else (), samples)


def _flows(flows: Mapping[Series, int]) -> Iterator[Metric]:
    seen: Counter[Labels] = Counter()
    denied: Counter[Labels] = Counter()
    for series, count in flows.items():
        seen[series.verdict, series.rule, series.vservice] += count
        if series.verdict == "denied" or series.dry_run:
            denied[series.rule, str(series.dry_run).lower()] += count
    text = "Decisions that control was told of: denials always, others while somebody follows."
    yield _family("counter", "appswitch_followed_flows", text, ("verdict", "rule", "vservice"), seen)
    text = "Connections that a rule denied, or would deny (dry_run), since control was started."
    yield _family("counter", "appswitch_rule_denials", text, ("rule", "dry_run"), denied)


def _backends(rows: Sequence[BackendRow]) -> Iterator[Metric]:
    states = _counted((row.vservice, row.state) for row in rows)
    yield _family("gauge", "appswitch_backends", "Backends by their state.", ("vservice", "state"), states)
    active, total, failures = _summed(
        MAX_BACKENDS,
        (
            ((row.vservice, str(row.port), row.backend), (row.active, row.total, row.failures))
            for row in rows
            if row.backend != "?"  # nobody yet
        ),
        3,
    )
    labels = ("vservice", "port", "backend")
    yield _family("gauge", "appswitch_backend_active_connections", "Connections of a backend.", labels, active)
    yield _family("counter", "appswitch_backend_connections", "Connections that a backend has got.", labels, total)
    yield _family(
        "counter", "appswitch_backend_failures", "Connections that a backend refused or let time out.", labels, failures
    )


def _proxies(rows: Sequence[ProxyRow]) -> Iterator[Metric]:
    states = _counted((row.state,) for row in rows)
    yield _family("gauge", "appswitch_proxies", "Proxies by their state.", ("state",), states)
    sums = _summed(MAX_PROXIES, (((row.name,), [get(row) for *_, get in PROXIES]) for row in rows), len(PROXIES))
    for (name, kind, text, _), samples in zip(PROXIES, sums, strict=True):
        yield _family(kind, name, text, ("proxy",), samples)


def _apps(snapshot: Snapshot) -> Iterator[Metric]:
    names = {row.app.id: (row.app.appid, row.app.name or "") for row in snapshot.apps}
    usages = [(names[app_id], one) for app_id, one in sorted(snapshot.usages.items()) if app_id in names]
    sums = _summed(MAX_APPS, ((who, [get(one) for *_, get in USAGES]) for who, one in usages), len(USAGES))
    for (name, kind, text, _), samples in zip(USAGES, sums, strict=True):
        yield _family(kind, name, text, ("appid", "name"), samples)
    alive: dict[Labels, float] = {
        names[app_id]: after for app_id, after in snapshot.alive_after.items() if app_id in names
    }
    text = "Time from the app's exec until it first listened."
    first = dict(list(alive.items())[:MAX_APPS])  # there is no sum of these
    yield _family("gauge", "appswitch_app_alive_after_seconds", text, ("appid", "name"), first)


def _summed(limit: int, rows: Iterable[tuple[Labels, Sequence[float]]], width: int) -> list[dict[Labels, float]]:
    """By labels, ``width`` sums; from ``limit`` label sets on all in one, whose labels are OTHER."""
    sums: list[dict[Labels, float]] = [{} for _ in range(width)]
    for labels, values in rows:
        key = labels if labels in sums[0] or len(sums[0]) < limit else (OTHER,) * len(labels)
        for column, value in zip(sums, values, strict=True):
            column[key] = column.get(key, 0) + value
    return sums
