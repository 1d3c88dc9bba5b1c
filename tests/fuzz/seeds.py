"""Good messages of every kind: what fuzzing begins with."""

from __future__ import annotations

import struct

import msgspec
from tests.unit.delegate.vectors import FULL, HEADERS, SMALL
from tests.unit.routing.l7.messages import PROXY_V1, WHOLE, WRITTEN

from appswitch import wire
from appswitch.address import Address, ip_bytes
from appswitch.delegate import messages, metadata, proxyprotocol
from appswitch.kernel import sockaddr
from appswitch.model import AppPhase, AppRow, AppSpec, ConnectionRow, Difference, FlowRow, ServerRow
from appswitch.resources import BackendSpec, Policy, Selector, ServicePort, VService
from appswitch.switch import naming

APP = AppSpec(
    id=7, uid=1000, gid=1000, node="n", cluster="c", command=("sleep", "1"), created=1.5, ips=("10.0.0.1",),
    labels={"zone": "default"},
)  # fmt: skip
_ROW = AppRow(app=APP, phase=AppPhase.RUNNING, pid=9, attached=2.5)
_SERVER = ServerRow(app_id=7, proto="tcp", service_ip="::", service_port=80, actual=("127.0.0.1:41000",), since=3.0)
_LINK = ConnectionRow(client_app=7, server_app=0, proto="tcp", client="1.2.3.4:5", server="1.2.3.4:6", transport="tcp")
_FLOW = FlowRow(
    time=1.0, proto="tcp", verdict="denied", client_app=7, server_app=0, client="1.2.3.4:5", server="1.2.3.4:6"
)
TO_SWITCH: list[wire.ToSwitch] = [
    wire.Register(1, APP, bytes(32), 5.0),
    wire.Forget(2, 7),
    wire.Permit(3, 7, "example.com", ("192.0.2.1",), 60.0),
    wire.Configure(
        seq=4,
        done=False,
        vservices=(VService(name="a", ips=("10.0.0.9",), ports=(ServicePort(80, 80),), backends=(BackendSpec(),)),),
        policies=(Policy(name="b", action="deny", to=(Selector(names=("a",)),)),),
    ),
    wire.Follow(5, True),
    wire.Kill(6),
    wire.Check(7),
    wire.Query(8, "apps"),
    wire.Explain(9, 7, "10.0.0.9:80"),
]
_TO_CONTROL: list[wire.ToControl] = [
    wire.Done(1, "taken", "by another"),
    wire.Rows(2, (_ROW,), (_SERVER,), connections=(_LINK,), stats={"calls": 1.0}, log=("x",)),
    wire.Checked(3, (Difference(kind="a", subject="b", detail="c"),), {"apps": 1}),
    wire.Killed(4, (_LINK,)),
    wire.Explained(5, True, ("a",)),
    wire.Welcome(wire.VERSION, 4, (_ROW,), (_SERVER,)),
    wire.FlowSeen(_FLOW),
]
_FROM, _TO = Address(ip_bytes("10.0.0.1"), 40000), Address(ip_bytes("fd00::1"), 80)
_PKTINFO = struct.pack("=Qii12x4x", 28, 0, 8) + struct.pack("=Qii4x4x", 20, 0, 1)

SEEDS: dict[str, list[bytes]] = {
    "peeked": [*(message for message, _ in WHOLE.values()), *WRITTEN.values(), PROXY_V1],
    "proxy_header": [PROXY_V1, *(proxyprotocol.encode(header) for header in HEADERS.values())],
    "delegation": [
        *(metadata.encode(known) for known in (FULL, SMALL)),
        *(
            messages.encode(one)
            for one in (
                messages.Hello("a", 5),
                messages.Verdict(1, messages.Action.PASS),
                messages.Done(1, 2, 3),
                messages.Offer(FULL),
                messages.Welcome(3),
                messages.Ask(SMALL),
                messages.Handover(4),
                messages.Received(4),
                messages.Withdrawn(5, messages.Reason.TIMEOUT),
                messages.Taken(4),
            )
        ),
    ],
    "channel": [
        *(wire.frame(one) for one in (*TO_SWITCH, *_TO_CONTROL)),
        *(msgspec.msgpack.encode(one) for one in TO_SWITCH),
        b"\xff\xff\xff\xff",
        b"".join(map(wire.frame, TO_SWITCH)),
    ],
    "names": [
        naming.connection(1, 2, _FROM, _TO),
        naming.bell(),
        naming.LOBBY,
        naming.listener(naming.Listener(1, 2, _TO, 3, 4)),
    ],
    "addresses": [
        sockaddr.encode(sockaddr.AF_INET, _FROM),
        sockaddr.encode(sockaddr.AF_INET6, _TO),
        b"\1\0/tmp/x",
        _PKTINFO,
    ],
}  # fmt: skip
