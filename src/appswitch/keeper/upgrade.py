"""`ax daemon --upgrade`: another version takes over, one process after the other, and no call fails.

Whoever asks is the new version: over ``$RUN/keeper.sock``, in one line of JSON, it says what is to be run (`Request`).
For each child a process of the new version is loaded first, beside the old one; only then is that one ended, and what
it stored handed over. When all are there the keeper becomes its own successor by execve(2): same process, same
children. A new version that cannot be loaded, or ends before it serves, changes nothing: the old one goes on, or is
started again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time

from appswitch.keeper.child import SIGNALS
from appswitch.keeper.log import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from appswitch.keeper.child import Child
    from appswitch.keeper.daemon import Keeper

LIMIT = 64 << 10  # bytes of a request


class Request:
    """``keeper``: an argument vector; ``commands``: those of the children, by name; ``environment``: what is added."""

    def __init__(self, data: bytes) -> None:
        """Raises ValueError, KeyError, TypeError."""
        given: dict[str, Any] = json.loads(data)
        self.keeper = [str(word) for word in given["keeper"]]
        self.commands = {str(name): [str(word) for word in words] for name, words in given["commands"].items()}
        self.environment = {str(name): str(value) for name, value in given.get("environment", {}).items()}
        if not self.keeper or not all(self.commands.values()):
            raise ValueError("an empty command")

    def check(self, names: Iterable[str]) -> None:
        """Raises ValueError if it does not say what to run for each of these."""
        missing = [name for name in names if name not in self.commands]
        if missing:
            raise ValueError(f"no command for {', '.join(missing)}")


class Upgrades:
    """One at a time. Whoever hangs up before a child is ended has changed his mind."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        path = os.path.join(keeper.directory, "keeper.sock")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener.bind(path)
        os.chmod(path, 0o600)  # the daemon's user and root
        self._listener.listen(4)
        keeper.epoll.register(self._listener, 1)  # EPOLLIN
        self._client: socket.socket | None = None
        self._heard = b""
        self._request: Request | None = None
        self._left: list[Child] = []  # those that are still of the old version
        self._ended = 0.0  # when the first of these was told to end, monotonic seconds; 0: it was not yet

    def handle(self, ready: set[int]) -> None:
        """Descriptors that epoll has reported."""
        if self._listener.fileno() in ready:
            self._accept()
        if self._client is not None and self._client.fileno() in ready:
            self._hear()

    def loaded(self, child: Child) -> None:
        """Its successor stands by: the child may go."""
        if self._left and child is self._left[0] and not self._ended:
            self._ended = time.monotonic()
            child.send(signal.SIGTERM)

    def ended(self, child: Child) -> bool:
        """Whether that was to be expected. If it is the successor that has ended, the old version comes back."""
        if not (self._left and child is self._left[0] and self._ended):
            return False
        if child.standby is not None:
            return True
        self.failed(child, "ended before it served; the old one is started again")
        return False

    def serving(self, child: Child) -> None:
        """It is as good as its predecessor."""
        if self._request is None or not (self._left and child is self._left[0] and self._ended):
            return
        pause, self._ended = time.monotonic() - self._ended, 0.0
        child.argv = tuple(self._request.commands[child.name])
        self._left.pop(0)
        self._tell(event="replaced", part=child.name, pause=round(pause, 4))
        log("info", "{name} was upgraded: who needed it waited {ms:.0f} ms", name=child.name, ms=pause * 1000)
        self._next()

    def failed(self, child: Child, why: str) -> None:
        """No upgrade, if there was to be one."""
        if self._left and child is self._left[0]:
            self._give_up(f"the new {child.name} {why}")

    def done(self, before: Inherited) -> None:
        """We are the new version."""
        log("info", "the keeper was upgraded")
        if before.reply >= 0:
            self._client = socket.socket(fileno=before.reply)
            self._tell(event="done")
            self._hang_up(watched=False)

    # One after the other

    def _begin(self, data: bytes) -> None:
        try:
            self._request = Request(data)
            self._request.check(child.name for child in self._keeper.children)
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            self._give_up(f"this request is not understood ({type(err).__name__}: {err})")
            return
        if self._keeper.stopping is not None or not self._keeper.announced:
            self._give_up("the daemon is just starting, or ending")
            return
        self._left = list(self._keeper.children)
        self._next()

    def _next(self) -> None:
        assert self._request is not None
        if not self._left:
            self._become_successor(self._request)
            return
        child = self._left[0]
        self._tell(event="loading", part=child.name)
        if child.standby is None:
            env = self._keeper.environment() | self._request.environment
            self._keeper.stand_by(child, self._request.commands[child.name], env)

    def _become_successor(self, request: Request) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until somebody listens to them again
        state = _state(self._keeper, self._client.fileno() if self._client is not None else -1)
        env = dict(os.environ) | request.environment | {"AX_KEEPER_STATE": str(state)}
        try:
            os.execve(request.keeper[0], request.keeper, env)  # noqa: S606 - there is no shell, and none is wanted
        except OSError as err:
            os.close(state)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            for fd in _handed_on(self._keeper):
                os.set_inheritable(fd, False)
            self._give_up(f"the new keeper cannot be run ({err.strerror}): the old one goes on, with new children")

    # Who asks

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            client.setblocking(False)
            if self._client is not None:
                with client:
                    client.send(_line(event="failed", reason="another upgrade is under way"))
                return
            self._client, self._heard = client, b""
            self._keeper.epoll.register(client, 1)

    def _hear(self) -> None:
        assert self._client is not None
        try:
            data = self._client.recv(LIMIT)
        except OSError:
            data = b""
        self._heard += data
        line, newline, _ = self._heard.partition(b"\n")
        if self._request is None and newline:
            self._begin(line)
        elif not data or len(self._heard) > LIMIT:
            if self._ended:  # too late: it is carried out, whether anybody hears of it or not
                self._hang_up()
            else:
                self._give_up("nobody waits for it any more")

    def _give_up(self, reason: str) -> None:
        if self._left:
            log("error", "no upgrade: {reason}", reason=reason)
        self._tell(event="failed", reason=reason)
        for child in self._left:
            if child.standby is not None and child.pid and child.standby.pidfd >= 0:
                self._keeper.drop_standby(child)
        self._hang_up()
        self._request, self._left, self._ended = None, [], 0.0

    def _hang_up(self, watched: bool = True) -> None:
        if self._client is not None:
            if watched:
                self._keeper.epoll.unregister(self._client)
            self._client.close()
            self._client = None

    def _tell(self, **fields: object) -> None:
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.send(_line(**fields))


def _line(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


# --- what the keeper hands on to the program that it becomes


def _handed_on(keeper: Keeper) -> Iterator[int]:
    yield from (keeper.lock, keeper.notify.socket.fileno())
    for child in keeper.children:
        yield from (fd for _, fd in child.store.entries)


def _state(keeper: Keeper, reply: int) -> int:
    """A memfd with all that the next program has to know; its descriptors are inherited."""
    rows = {
        child.name: {
            "pid": child.pid,
            "ready": child.ready,
            "status": child.status,
            "stored": [[name, fd, fd not in child.store.unpolled] for name, fd in child.store.entries],
        }
        for child in keeper.children
    }
    state = {
        "lock": keeper.lock,
        "notify": keeper.notify.socket.fileno(),
        "reply": reply,
        "announced": keeper.announced,
        "children": rows,
    }
    memory = os.memfd_create("appswitch-keeper")
    os.write(memory, json.dumps(state).encode())
    for fd in (memory, *([reply] if reply >= 0 else []), *_handed_on(keeper)):
        os.set_inheritable(fd, True)
    return memory


class Inherited:
    """What the program that we were has handed on."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.lock: int = state["lock"]
        self.notify: int = state["notify"]
        self.reply: int = state["reply"]
        self.announced: bool = state["announced"]
        self._children: dict[str, Any] = state["children"]
        for fd in (self.lock, self.notify, *([self.reply] if self.reply >= 0 else [])):
            os.set_inheritable(fd, False)

    def restore(self, keeper: Keeper) -> None:
        """The children, and what they stored."""
        for child in keeper.children:
            row = self._children.pop(child.name, None)
            if row is None:
                continue  # of the new version only
            for name, fd, poll in row["stored"]:
                os.set_inheritable(fd, False)
                keeper.keep(child, name, fd, poll)
            if row["pid"]:
                keeper.adopt(child, row["pid"])
                child.ready, child.status = row["ready"], row["status"]
        for row in self._children.values():
            for _, fd, _ in row["stored"]:
                os.close(fd)


def inherited() -> Inherited | None:
    """If we were another program before."""
    fd = os.environ.pop("AX_KEEPER_STATE", "")
    if not fd.isdigit():
        return None
    with open(int(fd), "rb") as memory:
        memory.seek(0)
        return Inherited(json.load(memory))
