"""A switch without apps' calls: real tables, loop and log, and small fakes for what carries decisions out."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Any

import pytest

from appswitch import wire
from appswitch._kernel import Fd, Reflex, Sock
from appswitch.address import Address, ip_bytes
from appswitch.kernel.sockaddr import AF_INET
from appswitch.model import AppSpec, FlowRow
from appswitch.resources import BackendSpec, Reference, ServicePort, VService
from appswitch.routing.clusters import Clusters
from appswitch.routing.policy import Policies
from appswitch.routing.proxies import Proxies
from appswitch.routing.route import Balanced, Flow, Verdict, World, route
from appswitch.routing.table import Endpoint, Table
from appswitch.switch.apps import App, Origin
from appswitch.switch.call import PidFds
from appswitch.switch.comers import Comers
from appswitch.switch.descriptors import Reserve
from appswitch.switch.flowlog import FlowLog
from appswitch.switch.flows import Flows
from appswitch.switch.held import Held
from appswitch.switch.keep import Keep, Kept
from appswitch.switch.loop import Loop
from appswitch.switch.memory import Memory, fresh_memory
from appswitch.switch.reflexes import Reflexes
from appswitch.switch.report import Reports
from appswitch.switch.services import Arrival, Service
from appswitch.switch.sockets import Socket

PATIENCE = 20.0  # seconds that something may take before a test fails


def address(text: str) -> Address:
    """``10.0.0.1:80``, ``[fd00::1]:80``."""
    ip, _, port = text.rpartition(":")
    return Address(ip_bytes(ip.strip("[]")), int(port))


class Holding:
    """Remembers what it is given: (end, held, verdict or bounds of peeking); closes what it is to refuse."""

    def __init__(self) -> None:
        self.settled: list[tuple[Fd, Held, Any]] = []
        self.refused: list[tuple[Held, int]] = []

    def settle(self, fd: Fd, held: Held, verdict: Verdict) -> None:
        self.settled.append((fd, held, verdict))

    hold = settle

    def refuse(self, fd: Fd, held: Held, _verdict: Verdict, error: int, _rule: str) -> None:
        fd.close()
        self.refused.append((held, error))


class Census:
    """Is asked to count, and does ``then``."""

    def __init__(self) -> None:
        self.asked = 0
        self.then: Callable[[], None] = lambda: None

    def refresh(self, _now: float) -> None:
        self.asked += 1
        self.then()


class Peeking:
    """Holds connections until the test says what was peeked."""

    def __init__(self) -> None:
        self.held: list[tuple[Fd, Any]] = []

    def start(self, fd: Fd, _bounds: object, done: Any, **_who: bool) -> None:
        self.held.append((fd, done))


class Parking:
    """Parked calls are what they were parked with."""

    def __init__(self) -> None:
        self.parked: list[Any] = []
        self.retried: list[Any] = []

    def park(self, *arguments: Any) -> Any:
        self.parked.append(arguments)
        return arguments

    def enqueue(self, parked: Any, queue: dict[Any, None]) -> None:
        queue[parked] = None

    def retry(self, parked: Any) -> None:
        self.retried.append(parked)


class Named:
    """Something of which only some attributes are looked at."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class FakeSwitch:
    """As much of `core.Switch` as those who decide ask for."""

    def __init__(self) -> None:
        self.loop = Loop(Reflex({}, Sock, {}), mmap.mmap(-1, 80))
        self.loop.on_fault = self._fault
        self.lines: list[tuple[str, dict[str, object]]] = []
        self.rows: list[FlowRow] = []
        reports = Reports(self.log)  # type: ignore[arg-type] # it is called, and no more
        reports.send = self._hear
        self.flowlog = FlowLog(reports)
        self.flowlog.followed = True
        self.table = Table()
        self.clusters = Clusters()
        self.policies = Policies()
        self.proxies = Proxies()
        self.world = World(self.table, self.clusters, self.policies, self.proxies)
        datagrams = Table()
        self.reflexes = Reflexes(self.loop.reflex)
        self.datagrams = Named(table=datagrams, world=World(datagrams, None, self.policies))
        self.node_ips = {4: ip_bytes("192.0.2.1")}
        self.flows = Flows(self.world, self.node_ips)
        self.apps: dict[int, App] = {}
        self.services = Named(by_id={})
        self.memory = Memory(fresh_memory())
        self.keep, self.kept = Keep(self.loop), Kept([], None, [])
        self.keeping = (self.keep, self.kept.listeners, self.memory)
        self.sockets = Named(by_cookie={}, keep=lambda _sock: None)
        self.pidfds = PidFds({}, lambda _tid, _fd: None)
        self.holding, self.census, self.peeking, self.parking = Holding(), Census(), Peeking(), Parking()
        self.offered: list[Arrival] = []
        self.room = True
        self.comers = Comers(lambda: True)
        self.resume = Named(stray=lambda *_: None, since=0.0)
        self.recovered = True
        self.reserve = Reserve()

    def log(self, event: str, **fields: object) -> None:
        self.lines.append((event, fields))

    def _hear(self, message: wire.ToControl) -> None:
        assert isinstance(message, wire.FlowSeen)
        self.rows.append(message.row)

    def _fault(self, problem: Exception) -> None:
        raise problem

    def pick(self, n: int) -> int:
        """Always the first."""
        assert n > 0
        return 0

    def offer(self, _service: Service, arrival: Arrival, patient: bool = False) -> bool:
        if self.room:
            self.offered.append(arrival)
        return self.room

    # What tests make of it

    def app(self, id: int, ip: str = "", name: str = "", **labels: str) -> App:
        """One that runs."""
        spec = AppSpec(
            id=id, uid=0, gid=0, node="n", cluster="c", command=("x",), created=0.0, name=name or None,
            ips=(ip,) if ip else (), labels={"zone": "default"} | labels,
        )  # fmt: skip
        app = self.apps[id] = App(spec, Fd(os.open("/dev/null", os.O_RDONLY)), Origin(1))
        self.table.join(app.member())
        self.datagrams.table.join(app.member())
        return app

    def listen(self, app: App, port: int) -> Service:
        """On all its addresses."""
        id = len(self.services.by_id) + 1
        endpoint = Endpoint(id, app.id, Address(bytes(4), port), dual=False, labels=app.labels)
        service = self.services.by_id[id] = Service(id, app, b"x", endpoint, Socket(id, app, AF_INET, unix=True), 0)
        self.table.add(endpoint, app.ips)
        return service

    def vservice(self, name: str, ip: str, ports: str, *backends: BackendSpec, **more: Any) -> None:
        there = tuple(ServicePort(*map(int, (one.split(":") * 2)[:2])) for one in ports.split(","))
        self.clusters.put(VService(name=name, ips=(ip,), ports=there, backends=backends, **more))
        self.table.changed()

    def reference(self, name: str, network: str, *to: BackendSpec, wait: float = 30.0) -> None:
        self.clusters.put(Reference(name=name, network=network, to=to, wait=wait))
        self.table.changed()

    def flow(self, app: App, to: str, **more: Any) -> Flow:
        """A connection of the app's."""
        return Flow(app.end(app.source_for(address(to).ip, self.node_ips)), address(to), **more)

    def balanced(self, app: App, to: str) -> Balanced:
        verdict = route(self.flow(app, to), self.world)
        assert isinstance(verdict, Balanced), verdict
        return verdict

    def run(self, until: Callable[[], object]) -> None:
        """The loop, until something is the case."""
        late = self.loop.after(PATIENCE, lambda: pytest.fail("nothing happened"))

        def look() -> None:
            if until():
                self.loop.stop()
            else:
                self.loop.after(0.001, look)

        self.loop.after(0, look)
        self.loop.run()
        late.cancel()

    def close(self) -> None:
        """What it has open."""
        for app in self.apps.values():
            app.listener.close()
        self.memory.close()
        self.loop.close()
