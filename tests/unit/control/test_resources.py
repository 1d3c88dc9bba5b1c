"""Documents into values and back, and what each of their fields may not be."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appswitch.control.problems import ProblemError
from appswitch.control.resources import documents, fields, loops, render
from appswitch.control.resources.documents import PolicyDocument, VServiceDocument
from appswitch.resources import (
    BackendSpec,
    L7Route,
    Limits,
    Outlier,
    Peek,
    Policy,
    PortRange,
    Proxy,
    Reference,
    Resource,
    Selector,
    ServicePort,
    VService,
)


def made(body: dict[str, Any]) -> Resource:
    document = documents.parse(body)
    name = document.metadata.name
    if isinstance(document, VServiceDocument):
        return document.spec.made(name, document.spec.ips, 5)
    return document.spec.made(name, 5, 7) if isinstance(document, PolicyDocument) else document.spec.made(name, 5)


def vservice(**spec: Any) -> dict[str, Any]:
    return {"kind": "VService", "metadata": {"name": "web"}, "spec": {"ports": [80]} | spec}


def policy(**spec: Any) -> dict[str, Any]:
    return {"kind": "Policy", "metadata": {"name": "p"}, "spec": {"action": "allow"} | spec}


def reference(**spec: Any) -> dict[str, Any]:
    return {"kind": "Reference", "metadata": {"name": "r"}, "spec": {"network": "10.9.0.5", "to": ["db"]} | spec}


def proxy(**spec: Any) -> dict[str, Any]:
    return {"kind": "Proxy", "metadata": {"name": "envoy"}, "spec": spec}


def test_a_whole_vservice() -> None:
    body = {
        "apiVersion": "appswitch/v1",
        "kind": "VService",
        "metadata": {"name": "Web"},
        "spec": {
            "ips": ["fd00:0::1", "10.1.0.100"],
            "ports": ["80:8080", "443", 53],
            "backends": [
                "10.1.0.1",
                "fd00::2",
                "web-1",
                "app=web+zone=a",
                "[2001:db8::7]:080",
                {"ip": "10.1.0.1", "weight": 2},
                {"labels": {"app": "web"}, "priority": 1, "locality": "a", "drain": True, "port": 8080},
                {"external": "192.0.2.7:8080", "weight": 0},
            ],
            "lbType": "Maglev",
            "hashOn": "http.path",
            "outlier": {"consecutiveFailures": 1, "baseEjection": 2, "maxEjection": 2.5, "maxEjectedPercent": 9,
                        "connectTimeout": 0.5},
            "limits": {"connections": 1, "pending": 2, "error": "ETIMEDOUT"},
            "routes": [{"name": "api", "match": {"http.path": "/api/*", "http.method": ["GET", "POST"]},
                        "backends": ["a"]}, {"match": {"http.path": "*"}, "backends": [{"name": "b"}]}],
            "peek": {"bytes": 1, "milliseconds": 2, "otherwise": "deny"},
            "external": True,
            "proxy": "Envoy",
            "wait": 0,
        },
        "status": {"whatever": 1},
    }  # fmt: skip
    assert made(body) == VService(
        name="web",
        ips=("10.1.0.100", "fd00::1"),
        ports=(ServicePort(80, 8080), ServicePort(443, 443), ServicePort(53, 53)),
        backends=(
            BackendSpec(ip="10.1.0.1"),
            BackendSpec(ip="fd00::2"),
            BackendSpec(name="web-1"),
            BackendSpec(labels={"app": "web", "zone": "a"}),
            BackendSpec(external="[2001:db8::7]:80"),
            BackendSpec(ip="10.1.0.1", weight=2),
            BackendSpec(labels={"app": "web"}, priority=1, locality="a", drain=True, port=8080),
            BackendSpec(external="192.0.2.7:8080", weight=0),
        ),
        lbtype="Maglev",
        hash_on="http.path",
        outlier=Outlier(
            consecutive_failures=1, base_ejection=2.0, max_ejection=2.5, max_ejected_percent=9, connect_timeout=0.5
        ),
        limits=Limits(connections=1, pending=2, error="ETIMEDOUT"),
        routes=(
            L7Route(name="api", match={"http.path": ("/api/*",), "http.method": ("GET", "POST")},
                    backends=(BackendSpec(name="a"),)),
            L7Route(match={"http.path": ("*",)}, backends=(BackendSpec(name="b"),)),
        ),
        peek=Peek(bytes=1, milliseconds=2, otherwise="deny"),
        external=True,
        proxy="envoy",
        wait=0.0,
        uid=5,
    )  # fmt: skip


def test_a_whole_policy() -> None:
    body = policy(
        action="deny",
        direction="egress",
        **{"from": [{"networks": ["10.0.0.0/8", "fd00::1"]}, {"labels": {"app": "c"}}, {"names": ["a", "B-*"]},
                    {"uids": [0, 1000]}, {"executables": ["/usr/bin/*"]}, {}]},
        to=[{"names": ["*web*"]}],
        ports=["80", "8000-8999/tcp", "53/udp", 443],
        l7=[{"http.method": "GET"}],
        error="EPERM",
        dryRun=True,
    )  # fmt: skip
    assert made(body) == Policy(
        name="p",
        action="deny",
        direction="egress",
        from_=(
            Selector(networks=("10.0.0.0/8", "fd00::1/128")),
            Selector(labels={"app": "c"}),
            Selector(names=("a", "b-*")),
            Selector(uids=(0, 1000)),
            Selector(executables=("/usr/bin/*",)),
            Selector(),
        ),
        to=(Selector(names=("*web*",)),),
        ports=(PortRange(80, 80), PortRange(8000, 8999, "tcp"), PortRange(53, 53, "udp"), PortRange(443, 443)),
        l7=({"http.method": ("GET",)},),
        error="EPERM",
        dry_run=True,
        uid=5,
        order=7,
    )


def test_a_whole_reference() -> None:
    body = reference(
        network="10.9.0.0/16", ports=["5432:15432"], to=[{"labels": {"role": "db"}}], wait=1, lbType="Random"
    )
    assert made(body) == Reference(
        name="r",
        network="10.9.0.0/16",
        ports=(ServicePort(5432, 15432),),
        to=(BackendSpec(labels={"role": "db"}),),
        wait=1.0,
        lbtype="Random",
        uid=5,
    )


def test_whole_proxies() -> None:
    body = proxy(
        listener="[fd00:0::50]:15001",
        header="v2",
        wants=[{"http.path": "/api/*", "http.method": ["GET", "POST"]}, {"tls.sni": "*.a"}],
        onFailure="open",
        next="Audit",
        peek={"milliseconds": 5},
    )
    assert made(body) == Proxy(
        name="envoy",
        listener="[fd00::50]:15001",
        header="v2",
        wants=({"http.path": ("/api/*",), "http.method": ("GET", "POST")}, {"tls.sni": ("*.a",)}),
        on_failure="open",
        next="audit",
        peek=Peek(milliseconds=5),
        uid=5,
    )
    assert made(proxy(capacity=9, timeout=0.5)) == Proxy(name="envoy", capacity=9, timeout=0.5, uid=5)
    assert made(proxy()) == Proxy(name="envoy", uid=5)
    assert made(policy(proxy="Envoy")) == Policy(name="p", action="allow", proxy="envoy", uid=5, order=7)


@pytest.mark.parametrize("text", ["10.1.0.50:1", "[fd00::50]:65535", "envoy:15001"])
def test_listeners(text: str) -> None:
    assert fields.listener(text) == text


BACKEND = ["spec", "backends", 0]


@pytest.mark.parametrize(
    ("body", "path", "detail"),
    [
        (None, [], "a document is an object"),
        ({}, ["kind"], "Field required: there are VService, Policy, Reference, Proxy"),
        ({"kind": ["VService"]}, ["kind"], "is none: there are"),
        ({"kind": "vservice"}, ["kind"], "'vservice' is none"),
        (vservice() | {"apiVersion": "v1"}, ["apiVersion"], "'appswitch/v1'"),
        (vservice() | {"spc": {}}, ["spc"], "did you mean spec?"),
        (vservice() | {"metadata": {}}, ["metadata", "name"], "Field required"),
        (vservice() | {"metadata": {"name": "a.b"}}, ["metadata", "name"], "'a.b' is not a name"),
        (vservice() | {"metadata": {"name": "12"}}, ["metadata", "name"], "is a number"),
        (vservice(ports=[]), ["spec", "ports"], "at least 1 item"),
        (vservice(ports=["0"]), ["spec", "ports", 0], "0 is not a port"),
        (vservice(ports=["80:65536"]), ["spec", "ports", 0], "65536 is not a port"),
        (vservice(ports=["80:a"]), ["spec", "ports", 0], "give V, or V:P"),
        (vservice(ports=[True]), ["spec", "ports", 0], "valid string"),
        (vservice(ports=[80, "80:81"]), ["spec", "ports"], "80 is there twice, as 80 and 80:81"),
        (vservice(ports=80), ["spec", "ports"], "valid list"),
        (vservice(ips=["10.0.0.1", "10.0.0.2"]), ["spec", "ips"], "a vservice has at most one IPv4 address"),
        (vservice(ips=["127.0.0.1"]), ["spec", "ips", 0], "loopback"),
        (vservice(lbType="roundrobin"), ["spec", "lbType"], "'RoundRobin'"),
        (vservice(hashOn="source"), ["spec"], "hashOn is for the lbTypes RingHash and Maglev"),
        (vservice(lbType="RingHash", hashOn="HTTP path"), ["spec", "hashOn"], "is not an attribute"),
        (vservice(lbType="Maglev", sourceIp=True), ["spec"], "leave one of them away"),
        (vservice(wait=-1), ["spec", "wait"], "greater than or equal to 0"),
        (vservice(wait="5"), ["spec", "wait"], "valid number"),
        (vservice(wait=float("nan")), ["spec", "wait"], "finite"),
        (vservice(external="yes"), ["spec", "external"], "valid boolean"),
        (vservice(outlier={"maxEjection": 1}), ["spec", "outlier"], "is below baseEjection (30)"),
        (vservice(outlier={"maxEjectedPercent": 101}), ["spec", "outlier", "maxEjectedPercent"], "equal to 100"),
        (vservice(limits={"error": "EIO"}), ["spec", "limits", "error"], "'ECONNREFUSED'"),
        (vservice(peek={"bytes": 0}), ["spec", "peek", "bytes"], "equal to 1"),
        (vservice(routes=[{"match": {}, "backends": ["a"]}]), ["spec", "routes", 0, "match"], "at least 1"),
        (vservice(routes=[{"match": {"http.path": []}, "backends": ["a"]}]),
         ["spec", "routes", 0, "match", "http.path"], "at least 1"),
        (vservice(routes=[{"match": {"http.path": "/a*b"}, "backends": ["a"]}]),
         ["spec", "routes", 0, "match", "http.path", 0], "a * stands at the beginning, at the end or both"),
        (vservice(routes=[{"match": {"http.path": "**"}, "backends": ["a"]}]),
         ["spec", "routes", 0, "match", "http.path", 0], "a * stands"),
        (vservice(routes=[{"match": {"path": "*"}, "backends": []}]), ["spec", "routes", 0, "match", "path"],
         "is not an attribute"),
        (vservice(routes=[{"name": "a", "match": {"http.path": "*"}, "backends": ["a"]}] * 2), ["spec"],
         "two routes are called a"),
        (vservice(backends=[""]), [*BACKEND, "name"], "'' is not a name"),
        (vservice(backends=[5]), BACKEND, "a word or an object"),
        (vservice(backends=["a", "b", "a"]), ["spec", "backends"], "the backends 0 and 2 are the same"),
        (vservice(backends=["10.0.0.300"]), BACKEND, "is not a backend: give an address"),
        (vservice(backends=["10.0.0.0/8"]), BACKEND, "is not a backend"),
        (vservice(backends=["1.2.3.4:0"]), [*BACKEND, "external"], "0 is not a port"),
        (vservice(backends=["a:80"]), [*BACKEND, "external"], "is not an address with a port"),
        (vservice(backends=["::1:x"]), BACKEND, "is not a backend"),
        (vservice(backends=["a=b+c"]), BACKEND, "does not select by labels"),
        (vservice(backends=["a=b+a=c"]), BACKEND, "each key once"),
        (vservice(backends=["=b"]), BACKEND, "not a label's key"),
        (vservice(backends=[{}]), BACKEND, "and this has none of them"),
        (vservice(backends=[{"ip": "10.0.0.1", "name": "a"}]), BACKEND, "and this has ip and name"),
        (vservice(backends=[{"labels": {}}]), [*BACKEND, "labels"], "give one at least"),
        (vservice(backends=[{"labels": {"a": 1}}]), [*BACKEND, "labels", "a"], "valid string"),
        (vservice(backends=[{"name": "a", "weight": 65536}]), [*BACKEND, "weight"], "equal to 65535"),
        (vservice(backends=[{"name": "a", "priority": 16}]), [*BACKEND, "priority"], "equal to 15"),
        (vservice(backends=[{"name": "a", "port": 0}]), [*BACKEND, "port"], "equal to 1"),
        (vservice(backends=[{"external": "1.2.3.4:5", "port": 5}]), BACKEND, "leave port away"),
        (vservice(backends=[{"external": "[1.2.3.4]:5"}]), [*BACKEND, "external"], "not an address with a port"),
        (vservice(backends=[{"external": "0.0.0.0:5"}]), [*BACKEND, "external"], "nobody can be connected to"),
        (vservice(backends=[{"name": "a", "weights": 1}]), [*BACKEND, "weights"], "did you mean weight?"),
        (policy(action="drop"), ["spec", "action"], "'allow' or 'deny'"),
        (policy(to=[{"uids": [1]}]), ["spec", "to", 0, "uids"], "there is no such field here"),
        (policy(to=[{"networks": ["10.0.0.1/8"]}]), ["spec", "to", 0, "networks", 0], "has bits set behind"),
        (policy(to=[{"names": ["a.b"]}]), ["spec", "to", 0, "names", 0], "can be no app's name"),
        (policy(to=[{"names": ["a*b"]}]), ["spec", "to", 0, "names", 0], "a * stands"),
        (policy(**{"from": [{"uids": [-1]}]}), ["spec", "from", 0, "uids", 0], "equal to 0"),
        (policy(**{"from": [{"executables": ["curl"]}]}), ["spec", "from", 0, "executables", 0], "absolute path"),
        (policy(ports=["80-70"]), ["spec", "ports", 0], "ends before it begins"),
        (policy(ports=["80/sctp"]), ["spec", "ports", 0], "does not name ports"),
        (policy(ports=["0-70000"]), ["spec", "ports", 0], "0 is not a port"),
        (policy(l7=[{"http.path": "x" * 1025}]), ["spec", "l7", 0, "http.path", 0], "1 to 1024 characters"),
        (policy(error=13), ["spec", "error"], "'EACCES'"),
        (policy(proxy="a.b"), ["spec", "proxy"], "is not a name"),
        (policy(action="deny", proxy="a"), ["spec"], "proxy is for an allow policy"),
        (policy(dryRun=True, proxy="a"), ["spec"], "leave proxy or dryRun away"),
        (vservice(proxy=""), ["spec", "proxy"], "is not a name"),
        (proxy(listener="10.1.0.50"), ["spec", "listener"], "is no listener"),
        (proxy(listener="fd00::1:80"), ["spec", "listener"], "is no listener"),
        (proxy(listener="[10.1.0.50]:1"), ["spec", "listener"], "is no listener"),
        (proxy(listener="a.b:1"), ["spec", "listener"], "is not a name"),
        (proxy(listener=":1"), ["spec", "listener"], "is not a name"),
        (proxy(listener="envoy:0"), ["spec", "listener"], "0 is not a port"),
        (proxy(listener="127.0.0.1:80"), ["spec", "listener"], "loopback"),
        (proxy(listener="10.1.0.300:80"), ["spec", "listener"], "is not an IP address"),
        (proxy(header="v2"), ["spec"], "header is for a proxy with a listener"),
        (proxy(header="v1"), ["spec", "header"], "'none' or 'v2'"),
        (proxy(listener="a:1", capacity=0), ["spec"], "capacity is for the delegation endpoint"),
        (proxy(listener="a:1", timeout=2), ["spec"], "timeout is for the delegation endpoint"),
        (proxy(timeout=0), ["spec", "timeout"], "greater than 0"),
        (proxy(capacity=-1), ["spec", "capacity"], "equal to 0"),
        (proxy(wants=[{"path": "*"}]), ["spec", "wants", 0, "path"], "is not an attribute"),
        (proxy(wants=[{}]), ["spec", "wants", 0], "at least 1"),
        (proxy(next="a b"), ["spec", "next"], "is not a name"),
        (proxy(onFailure="ajar"), ["spec", "onFailure"], "'open' or 'closed'"),
        (proxy(listner="a:1"), ["spec", "listner"], "did you mean listener?"),  # codespell:ignore
        (reference(to=[]), ["spec", "to"], "at least 1"),
        (reference(network="10.9.0.5/16"), ["spec", "network"], "10.9.0.0/16 is the network"),
        (reference(network="0.0.0.0/0"), ["spec", "network"], "every address there is"),
        (reference(network="127.0.0.1"), ["spec", "network"], "loopback"),
        (reference(network="db"), ["spec", "network"], "is not a network"),
    ],
)  # fmt: skip
def test_what_is_wrong(body: object, path: list[Any], detail: str) -> None:
    with pytest.raises(ProblemError) as caught:
        documents.parse(body)
    assert caught.value.slug == "invalid"
    assert path in [one["path"] for one in caught.value.errors or []]
    found = next(one for one in caught.value.errors or [] if one["path"] == path)
    assert detail in found["detail"]


def test_everything_that_is_wrong() -> None:
    with pytest.raises(ProblemError) as caught:
        documents.parse(vservice(ports=["x", 0], wait=-1, x=1))
    assert [one["path"][1:] for one in caught.value.errors or []] == [["ports", 0], ["ports", 1], ["wait"], ["x"]]


# There and back again

LABEL = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True).filter(lambda name: name != "localhost")
LABELS = st.dictionaries(LABEL, LABEL, min_size=1, max_size=3)
PORT = st.integers(1, 65535)
IP4 = st.integers(1, 250).map(lambda n: f"10.{n}.0.1")
IP6 = st.integers(1, 0xFFFF).map(lambda n: f"fd00::{n:x}")
NETWORK = st.sampled_from(["10.0.0.0/8", "10.1.2.3/32", "fd00::/8", "2001:db8::1/128", "0.0.0.0/0"])
SECONDS = st.integers(0, 100).map(float) | st.floats(0, 1000)
ERROR = st.sampled_from(["EACCES", "EPERM", "ECONNREFUSED", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH"])
TEXT = st.text(min_size=1, max_size=10).filter(lambda text: "*" not in text)
PATTERN = TEXT | TEXT.map(lambda text: f"{text}*") | TEXT.map(lambda text: f"*{text}") | st.just("*")
MATCH = st.dictionaries(
    st.sampled_from(["http.path", "tls.sni"]), st.lists(PATTERN, min_size=1, max_size=3).map(tuple), min_size=1
)
WHERE = st.one_of(
    st.fixed_dictionaries({"ip": IP4 | IP6}),
    st.fixed_dictionaries({"name": LABEL}),
    st.fixed_dictionaries({"labels": LABELS}, optional={"port": PORT}),
    st.fixed_dictionaries({"external": st.sampled_from(["192.0.2.1:80", "[2001:db8::1]:443"])}),
)
MORE = st.fixed_dictionaries(
    {},
    optional={
        "weight": st.integers(0, 65535),
        "priority": st.integers(0, 15),
        "locality": LABEL,
        "drain": st.booleans(),
    },
)
BACKENDS = st.lists(st.builds(lambda where, more: BackendSpec(**where, **more), WHERE, MORE), max_size=4, unique_by=str)
SOME_BACKENDS = BACKENDS.filter(bool)
PORTS = st.lists(st.builds(ServicePort, PORT, PORT), min_size=1, max_size=4, unique_by=lambda one: one.port)
OUTLIER = st.builds(
    Outlier,
    consecutive_failures=st.integers(0, 1000),
    base_ejection=st.floats(0, 300),
    max_ejection=st.floats(300, 86400),
    max_ejected_percent=st.integers(0, 100),
    connect_timeout=st.floats(0.001, 300),
)
LIMITS = st.builds(Limits, connections=st.integers(0, 2**31 - 1), pending=st.integers(0, 9), error=ERROR)
PEEK = st.builds(
    Peek, bytes=st.integers(1, 65536), milliseconds=st.integers(0, 60000), otherwise=st.sampled_from(["allow", "deny"])
)
ROUTES = st.lists(
    st.builds(L7Route, match=MATCH, backends=SOME_BACKENDS.map(tuple), name=LABEL | st.just("")),
    max_size=3,
    unique_by=lambda one: one.name or id(one),
)
BALANCED = st.sampled_from(
    [{}, {"lbtype": "Random", "source_ip": True}, {"lbtype": "Maglev", "hash_on": "http.path"}, {"lbtype": "RingHash"}]
)
VSERVICES = st.builds(
    lambda balanced, ips, **more: VService(name="web", ips=tuple(ips), uid=5, **balanced, **more),
    BALANCED,
    st.tuples(IP4, IP6) | st.tuples(IP4) | st.tuples(IP6),
    ports=PORTS.map(tuple),
    backends=BACKENDS.map(tuple),
    outlier=OUTLIER | st.just(Outlier()),
    limits=LIMITS | st.just(Limits()),
    routes=ROUTES.map(tuple),
    peek=PEEK | st.just(Peek()),
    external=st.booleans(),
    proxy=LABEL | st.just(""),
    wait=SECONDS,
)
TO = {
    "labels": LABELS,
    "names": st.lists(LABEL, min_size=1).map(tuple),
    "networks": st.lists(NETWORK, min_size=1).map(tuple),
}
FROM = TO | {
    "uids": st.lists(st.integers(0, 2**32 - 2), min_size=1).map(tuple),
    "executables": st.just(("/usr/bin/*", "/bin/sh")),
}
RANGE = st.builds(
    lambda a, b, protocol: PortRange(min(a, b), max(a, b), protocol), PORT, PORT, st.sampled_from([None, "tcp", "udp"])
)


def selectors(fields_of: dict[str, Any]) -> st.SearchStrategy[tuple[Selector, ...]]:
    one = st.fixed_dictionaries({}, optional=fields_of).map(lambda given: Selector(**given))
    return st.lists(one, max_size=3).map(tuple)


POLICIES = st.builds(
    Policy,
    name=st.just("p"),
    action=st.sampled_from(["allow", "deny"]),
    direction=st.sampled_from(["ingress", "egress"]),
    from_=selectors(FROM),
    to=selectors(TO),
    ports=st.lists(RANGE, max_size=3).map(tuple),
    l7=st.lists(MATCH, max_size=2).map(tuple),
    error=ERROR,
    dry_run=st.booleans(),
    uid=st.just(5),
    order=st.just(7),
) | st.builds(Policy, name=st.just("p"), action=st.just("allow"), proxy=LABEL, uid=st.just(5), order=st.just(7))
REFERENCES = st.builds(
    Reference,
    name=st.just("r"),
    network=st.sampled_from(["10.9.0.0/16", "10.1.2.3/32", "2001:db8::1/128"]),
    ports=(PORTS | st.just([])).map(tuple),
    to=SOME_BACKENDS.map(tuple),
    wait=SECONDS,
    lbtype=st.sampled_from(["Random", "RoundRobin", "Maglev"]),
    uid=st.just(5),
)


AT = st.sampled_from(
    [
        {"listener": "10.1.0.50:15001", "header": "v2"},
        {"listener": "[fd00::50]:1"},
        {"listener": "envoy:80"},
        {"capacity": 7, "timeout": 0.25},
        {},
    ]
)
PROXIES = st.builds(
    lambda at, **more: Proxy(name="envoy", uid=5, **at, **more),
    AT,
    wants=st.lists(MATCH, max_size=2).map(tuple),
    on_failure=st.sampled_from(["open", "closed"]),
    next=LABEL | st.just(""),
    peek=PEEK | st.just(Peek()),
)


@settings(deadline=None)
@given(VSERVICES | POLICIES | REFERENCES | PROXIES)
def test_there_and_back(resource: Resource) -> None:
    body = {"kind": type(resource).__name__, "metadata": {"name": resource.name}, "spec": render.spec(resource)}
    again = json.loads(json.dumps(body))
    assert made(again) == resource


def test_what_is_default_is_not_shown() -> None:
    found = made(vservice(ips=["10.0.0.1"], lbType="RoundRobin", wait=30, external=False, peek={"bytes": 16384}))
    assert render.spec(found) == {"ips": ["10.0.0.1"], "ports": ["80"]}
    assert render.spec(found, drawn=True) == {"ports": ["80"]}


# Loops


class There(dict[str, VService]):
    """The vservices there are, as `loops.Services`."""

    def vservice(self, name: str) -> VService | None:
        return self.get(name)

    def serves(self, ip: str) -> bool:
        return any(ip in one.ips for one in self.values())

    def vservice_at(self, ip: str, port: int) -> VService | None:
        found = (one for one in self.values() if ip in one.ips and any(each.port == port for each in one.ports))
        return next(found, None)


def service(name: str, ports: str, *to: str, ip: str = "") -> VService:
    """Backends are "NAME", "IP", "NAME:PORT"."""
    document = vservice(ips=[ip] if ip else [], ports=ports.split(), backends=[_backend(one) for one in to])
    return msgspec.structs.replace(made(document), name=name)


def _backend(word: str) -> dict[str, Any]:
    where, _, port = word.partition(":")
    return {"ip" if where[0].isdigit() else "name": where} | ({"port": int(port)} if port else {})


A, B = "10.1.0.1", "10.1.0.2"


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ([service("a", "80")], None),
        ([service("a", "80", "a")], "a:80 a:80"),
        ([service("a", "80", "b"), service("b", "80", "a")], "a:80 b:80 a:80"),
        ([service("a", "80", "x", "b", "c"), service("b", "80", "d"), service("c", "80", "d"), service("d", "80", "e"),
          service("e", "80")], None),
        ([service("a", "80", "b", "c"), service("b", "80", "d"), service("c", "80", "a"), service("d", "80")],
         "a:80 c:80 a:80"),
        ([service("a", "80", "b"), service("b", "80", "c", "d"), service("c", "80"), service("d", "80", "a")],
         "a:80 b:80 d:80 a:80"),
        # An address leads to the vservice that has the port, and else to apps.
        ([service("a", "80", A, ip=A)], "a:80 a:80"),
        ([service("a", "80:8080", A, ip=A)], None),
        ([service("a", "80:8080 8080", A, ip=A)], "a:8080 a:8080"),
        ([service("a", "80:81 81:82", A, ip=A)], None),
        ([service("a", "80", f"{A}:81", ip=A), service("b", "81", f"{A}:82", ip=A)], None),
        ([service("a", "80", f"{A}:81", ip=A), service("b", "81", f"{A}:80", ip=A)], "a:80 b:81 a:80"),
        ([service("a", "80", B, ip=A), service("b", "80:81 81", A, ip=B)], None),
        # A name leads to the port of that number, or else to the first.
        ([service("a", "80:8080", "a")], "a:80 a:80"),
        ([service("a", "80 81:80", "b:81"), service("b", "82:1 81", A, ip=B)], None),
        ([service("a", "80", "b:81", ip=A), service("b", "82:80", A)], "a:80 b:82 a:80"),
        ([service("a", "80 81", "b", ip=A), service("b", "82 81", f"{A}:81")], "a:81 b:81 a:81"),
    ],
)  # fmt: skip
def test_loops(there: list[VService], found: str | None) -> None:
    way = loops.loop(there[0], There({one.name: one for one in there}))
    assert way == (found.split() if found else None)


@pytest.mark.parametrize(
    ("leads", "found"),
    [
        ({"a": ""}, None),
        ({"a": "a"}, "a a"),
        ({"a": "b"}, None),
        ({"a": "b", "b": "c", "c": "nobody"}, None),
        ({"a": "b", "b": "c", "c": "a"}, "a b c a"),
    ],
)
def test_chains_of_proxies(leads: dict[str, str], found: str | None) -> None:
    there = {name: Proxy(name=name, next=to) for name, to in leads.items()}
    assert loops.chain(there["a"], there.get) == (found.split() if found else None)


def test_a_vservice_in_place_of_one() -> None:
    """As it will be, whatever it was."""
    there = There({"a": service("a", "80", ip=A), "b": service("b", "80", A, ip=B)})
    new = service("a", "80", B, ip=A)
    assert loops.loop(new, loops.With(there, new)) == ["a:80", "b:80", "a:80"]
    moved = service("a", "81", B, ip=A)
    assert loops.loop(moved, loops.With(there, moved)) is None


def test_many_ways_are_looked_at_once() -> None:
    """2**200 of them."""
    there = {
        f"{side}{n}": service(f"{side}{n}", "80 81", f"l{n + 1}", f"r{n + 1}") for n in range(200) for side in "lr"
    }
    assert loops.loop(there["l0"], There(there)) is None


def test_too_many_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    there = There({f"v{n}": service(f"v{n}", "80", f"v{n + 1}") for n in range(10)})
    monkeypatch.setattr(loops, "MAX_WORK", 17)  # each backend is looked at twice; the last one is nobody
    with pytest.raises(loops.TooManyError):
        loops.loop(there["v0"], there)
    assert loops.loop(there["v1"], there) is None


def test_words_for_backends() -> None:
    assert fields.backend("fd00::1") == {"ip": "fd00::1"}
    assert fields.backend("fd00::1:80") == {"ip": "fd00::1:80"}  # that is an address
    assert fields.backend("a=") == {"labels": {"a": ""}}
