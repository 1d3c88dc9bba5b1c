"""What the switch believes, compared with what the kernel says: `ax debug check`.

A difference may be one of the moment: sockets come and go, and what has gone is noticed by sweeps. So what differs is
looked at again, after sweeps had their turn, and is told only if it differs each time. All of it goes in pieces.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from appswitch import _kernel
from appswitch.kernel.sockaddr import AF_INET, AF_INET6
from appswitch.model import Difference
from appswitch.switch import naming
from appswitch.switch.owned import reachable, unowned
from appswitch.switch.parking import Parked
from appswitch.switch.pieces import every

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

LOOKS = 6  # before something is called a difference
AGAIN = 0.6  # seconds between two looks: longer than any sweep waits
BATCH = 200  # entries in one go
TOLD = 1000  # differences at most
_ALL_STATES, _LISTEN = 0xFFF, 1 << 10
_TIME_WAIT = 1 << 6

Look = Generator[None, None, Iterable[Difference]]


class Audit(NamedTuple):
    """``looked``: how much of each kind was compared."""

    differences: tuple[Difference, ...]
    looked: dict[str, int]


def audit(switch: Switch) -> Generator[float | None, None, Audit]:
    """Compare everything."""
    lasting: dict[tuple[str, str], Difference] = {}
    looked: dict[str, int] = {}
    for look in range(LOOKS):
        found = yield from _differences(switch, looked)
        now = {(one.kind, one.subject): one for one in found}
        lasting = now if look == 0 else {key: one for key, one in now.items() if key in lasting}
        if not lasting:
            break
        if look < LOOKS - 1:
            yield AGAIN
    return Audit(tuple(lasting.values())[:TOLD], looked)


def _differences(switch: Switch, looked: dict[str, int]) -> Generator[None, None, list[Difference]]:
    found: list[Difference] = []
    for name, look in _LOOKS.items():
        looked[name] = _SIZES[name](switch)
        found += yield from look(switch)
        yield
    owned = yield from reachable([switch])
    strangers = unowned(owned)
    looked["descriptors"] = len(owned) + len(strangers)
    found += [
        Difference(kind="descriptor-unowned", subject=f"fd {number}", detail=f"{link}: nothing of the switch owns it")
        for number, link in strangers.items()
        if switch.inherited.get(number) != link
    ]
    return found


# -- the looks


def _services(switch: Switch) -> Look:
    """Listening sockets: each has a service, a file with its name, and an entry in the table."""
    switch.sweep.soon()
    yield
    listening = {row[6].rstrip(b"\0") for row in _kernel.dump_unix(_LISTEN)}
    files = {os.fsencode(name) for name in os.listdir()}
    ours = {service.name for service in switch.services.by_id.values()}
    found = []
    for service in list(switch.services.by_id.values()):
        who = f"{service.app.spec.appid} at {service.endpoint.bound}"
        if service.name not in listening:
            found.append(_difference("service-not-listening", who, "its socket does not listen any more"))
        if service.name not in files:
            found.append(_difference("service-without-file", who, f"there is no file {_text(service.name)}"))
        if service.app.id not in switch.apps:
            found.append(_difference("service-of-no-app", who, "its app has ended"))
    known = ours | {naming.LOBBY}
    for name in sorted(files - known):
        state = "a socket listens there" if name in listening else "nobody listens there"
        found.append(_difference("name-without-service", _text(name), f"no service has this name, and {state}"))
    return found


def _sockets(switch: Switch) -> Look:
    """What is remembered of sockets, by cookie: sock_diag(7) lists each."""
    switch.sweep.soon()
    yield
    missing = set(switch.sockets.by_cookie)
    missing -= {row[0] for row in _kernel.dump_unix(_ALL_STATES)}
    for family in (AF_INET, AF_INET6):
        yield
        missing -= {row[0] for row in _kernel.dump_inet(family, 6, _ALL_STATES & ~_TIME_WAIT)}
    found = [_difference("socket-not-listed", f"cookie {cookie}", "sock_diag does not list it") for cookie in missing]
    for batch in every(BATCH, [(app, port, sock) for app in switch.apps.values() for port, held in app.bound.items()
                               for sock in held]):  # fmt: skip
        found += [
            _difference("port-of-no-socket", f"{app.spec.appid} port {port}", f"cookie {sock.cookie} is not known")
            for app, port, sock in batch
            if sock.cookie not in switch.sockets.by_cookie
        ]
        yield
    return found


def _datagrams(switch: Switch) -> Look:
    """The same of UDP sockets."""
    switch.datagrams.sweep()
    yield
    return [
        _difference("socket-of-no-app", f"cookie {cookie}", f"its app {datagram.app.spec.appid} has ended")
        for cookie, datagram in switch.datagrams.by_cookie.items()
        if datagram.app.id not in switch.apps
    ]


def _apps(switch: Switch) -> Look:
    """Notification descriptors hang up when the last process of an app has ended: seccomp_unotify(2)."""
    found = []
    for batch in every(BATCH, list(switch.apps.values())):
        numbers = {app.listener.fileno(): app for app in batch if not app.ended}
        found += [
            _difference("app-without-process", numbers[number].spec.appid, "its last process has ended")
            for number in _ready(numbers, select.POLLHUP)
        ]
        yield
    missing = switch.apps.keys() ^ switch.table.members.keys()
    found += [_difference("app-not-in-table", f"{one:08x}", "it runs and no selector sees it, or the reverse")
              for one in missing]  # fmt: skip
    return found


def _parked(switch: Switch) -> Look:
    """Who waits in a call still does; each is in the journal."""
    found = []
    for batch in every(BATCH, list(switch.parking.by_tid.values())):
        found += [
            _difference("call-of-nobody", f"thread {one.call.tid}", f"the call of app {one.call.app.spec.appid} was "
                        "given up, and is still waited for")
            for one in batch if switch.parking.holds(one) and not one.call.valid()
        ]  # fmt: skip
        yield
    waiting: dict[int, Parked] = {one.slot: one for one in switch.parking.by_tid.values() if one.slot}
    found += [
        _difference("journal-entry-of-nobody", f"slot {slot}", "no call that waits has it")
        for slot in switch.parking.journal.used() - waiting.keys()
    ]
    return found


def _threads(switch: Switch) -> Look:
    """Pidfds of threads that have ended: pidfd_open(2)."""
    found = []
    for batch in every(BATCH, list(switch.loop.reflex.pidfds.items())):
        switch.pidfds.sweep()
        numbers = {fd.fileno(): tid for tid, fd in batch if switch.loop.reflex.pidfds.get(tid) is fd}
        found += [
            _difference("pidfd-of-ended-thread", f"thread {numbers[number]}", "its pidfd is kept")
            for number in _ready(numbers, select.POLLIN)
        ]
        yield
    return found


_LOOKS: dict[str, Callable[[Switch], Look]] = {
    "services": _services,
    "sockets": _sockets,
    "datagrams": _datagrams,
    "apps": _apps,
    "parked": _parked,
    "threads": _threads,
}
_SIZES: dict[str, Callable[[Switch], int]] = {
    "services": lambda switch: len(switch.services.by_id),
    "sockets": lambda switch: len(switch.sockets.by_cookie),
    "datagrams": lambda switch: len(switch.datagrams.by_cookie),
    "apps": lambda switch: len(switch.apps),
    "parked": lambda switch: len(switch.parking),
    "threads": lambda switch: len(switch.loop.reflex.pidfds),
}  # fmt: skip


def _ready(numbers: Iterable[int], events: int) -> Iterator[int]:
    """Those that have one of ``events`` now. poll(2)."""
    poll = select.poll()
    for number in numbers:
        poll.register(number, events)
    return (number for number, seen in poll.poll(0) if seen & events)


def _difference(kind: str, subject: str, detail: str) -> Difference:
    return Difference(kind=kind, subject=subject, detail=detail)


def _text(name: bytes) -> str:
    return name.decode("ascii", "backslashreplace")
