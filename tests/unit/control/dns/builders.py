"""Apps, questions and answers, as short as tests want them."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset

from appswitch.control.dns.answer import Answer
from appswitch.control.dns.apps import Apps
from appswitch.control.dns.asker import Asker, asker
from appswitch.control.dns.query import Query, parse
from appswitch.model import AppPhase, AppRow, AppSpec, Egress, EgressRule, Protocol, ServerRow

SERVICES = {(80, "tcp"): "http", (443, "tcp"): "https", (53, "udp"): "domain"}


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def app(
    number: int,
    name: str | None = None,
    ips: tuple[str, ...] = (),
    labels: dict[str, str] | None = None,
    rules: tuple[str, ...] = (),
) -> AppRow:
    egress = Egress("deny", tuple(EgressRule(allow=True, name=rule) for rule in rules))
    spec = AppSpec(
        id=number, uid=0, gid=0, node="n1", cluster="c", command=("x",), created=1.0, name=name, ips=ips,
        labels={"zone": "default"} if labels is None else labels, egress=egress, nameservers=("127.0.0.1",),
    )  # fmt: skip
    return AppRow(app=spec, phase=AppPhase.RUNNING, pid=7, attached=2.0)


def listener(app_id: int, port: int, proto: Protocol = "tcp", ip: str = "0.0.0.0") -> ServerRow:
    return ServerRow(app_id=app_id, proto=proto, service_ip=ip, service_port=port, actual=(), since=port / 7)


def apps(*rows: AppRow, listeners: tuple[ServerRow, ...] = ()) -> Apps:
    made = Apps(lambda port, proto: SERVICES.get((port, proto)))
    for row in rows:
        made.put(row)
    for one in listeners:
        made.listen(one)
    return made


SOMEBODY: Asker = asker(app(99).app)


def ask(name: str, rdtype: str = "A", **more: object) -> dns.message.Message:
    return dns.message.make_query(name, rdtype, **more)  # type: ignore[arg-type]


def query(name: str, rdtype: str = "A", tcp: bool = False, **more: object) -> Query:
    found = parse(ask(name, rdtype, **more).to_wire(), tcp)
    assert isinstance(found, Query)
    return found


def texts(answer: Answer | None) -> list[str]:
    """Records of the answer section: type and data."""
    assert answer is not None
    return texts_of(answer.answer)


def texts_of(rrsets: object) -> list[str]:
    return [f"{dns.rdatatype.to_text(rrset.rdtype)} {one}" for rrset in rrsets for one in rrset]  # type: ignore[attr-defined]


def rrset(name: str, ttl: int, rdtype: str, *data: str) -> dns.rrset.RRset:
    return dns.rrset.from_text(name, ttl, "IN", rdtype, *data)
