"""What a packet filter decided is decided as well when it has been imported: connections are made, led and refused."""

from __future__ import annotations

import json
import os

from e2e.services import Services
from e2e.test_policies import TEXT, ask, echo
from e2e.world import Switched
from harness import App, wait_until
from harness.addresses import free_port

RULES = """\
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A OUTPUT -d {vip}/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 127.0.0.9:{port}
-A OUTPUT -d {vip}/32 -p tcp -m tcp --dport 81 -m comment --comment "echo" -j DNAT --to-destination {app}:7000
COMMIT
*filter
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -s {stranger}/32 -d {app}/32 -p tcp -m tcp --dport 7000 -j REJECT --reject-with tcp-reset
-A OUTPUT -d 127.0.0.9/32 -p tcp --dport {port} -m owner --uid-owner 1 -j REJECT --reject-with icmp-host-prohibited
COMMIT
"""


def test_a_packet_filter(switched: Switched, services: Services) -> None:
    """One address whose ports lead to a server of the host and to an app; some clients and users get neither."""
    port, server = free_port("127.0.0.9"), echo(switched)
    vip, stranger = switched.addresses.v4(), switched.addresses.v4()
    serve = ["socat", f"TCP-LISTEN:{port},bind=127.0.0.9,fork,reuseaddr", "SYSTEM:echo outside"]
    rules = RULES.format(vip=vip, port=port, app=server.ip, stranger=stranger)
    told = services.daemon.ax("import", "iptables", "-o", "json", "-", input=rules, check=True)
    assert told.stderr == "ax import: 2 vservices, 2 policies, 0 left out\n"
    documents = [json.loads(line) for line in told.stdout.splitlines()]
    for backend in (one for each in documents for one in each["spec"].get("backends", ())):
        if backend == {"external": f"{server.ip}:7000"}:  # it runs under ax: docs/import.md
            backend.clear()
            backend.update(ip=server.ip, port=7000)
    services.apply(*documents)
    with App(serve, os.environ) as host:
        wait_until(lambda: ask(switched, f"{vip}:80") == ["outside"], lambda: f"the host's server\n{host}")
        assert ask(switched, f"{vip}:80", f"{vip}:81") == ["outside", "hello"]
        assert ask(switched, f"{vip}:80", f"{vip}:81", ip=stranger) == ["outside", TEXT["ECONNREFUSED"]]
        assert ask(switched, f"{vip}:80", f"{vip}:81", user="daemon") == [TEXT["EHOSTUNREACH"], "hello"]
        assert ask(switched, f"{server.ip}:7000", ip=stranger) == [TEXT["ECONNREFUSED"]]
