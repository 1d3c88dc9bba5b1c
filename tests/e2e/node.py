"""A node of the test's own: a network namespace with a daemon in it, and another one that plays the rest of the world.

    outside (192.0.2.2, 2001:db8::2) ───veth─── node (192.0.2.1, 2001:db8::1): ax daemon, apps

What crosses the wire stays between the two namespaces; nothing of the machine's own network is touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from e2e.world import ENVIRONMENT
from harness import App, Daemon, wait_until

NODE, OUTSIDE = "192.0.2.1", "192.0.2.2"
NODE6, OUTSIDE6 = "2001:db8::1", "2001:db8::2"
NOBODY = "192.0.2.99"
"""On the wire's network, but there is no such host."""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Namespaces:
    """The two namespaces and the wire between them."""

    def __init__(self) -> None:
        mark = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"  # whose it is: harness/leaks.py
        self.node, self.outside = f"axt-node-{mark}", f"axt-out-{mark}"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for name in (self.node, self.outside):
                _ip("netns", "add", name)
                stack.callback(_ip, "netns", "delete", name)
                _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", self.node, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.outside)
            for name, v4, v6 in ((self.node, NODE, NODE6), (self.outside, OUTSIDE, OUTSIDE6)):
                _ip("-n", name, "address", "add", f"{v4}/24", "dev", "eth0")
                _ip("-n", name, "address", "add", f"{v6}/64", "dev", "eth0", "nodad")
                _ip("-n", name, "link", "set", "eth0", "up")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def etc(self, name: str, text: str) -> None:
        """What is run on the node from now on finds this file in /etc: ip-netns(8)."""
        place = Path("/etc/netns") / self.node
        if not place.exists():
            self._stack.callback(_take_away, place, None if place.parent.exists() else place.parent)
            place.mkdir(parents=True)
        fresh = place / f".{name}"
        fresh.write_text(text)
        fresh.rename(place / name)


def _take_away(place: Path, parent: Path | None) -> None:
    shutil.rmtree(place)
    if parent is not None:
        with contextlib.suppress(OSError):  # another worker's is there
            parent.rmdir()


def enter(namespace: str, argv: Sequence[str | Path]) -> list[str]:
    return ["ip", "netns", "exec", namespace, *map(str, argv)]


class NodeDaemon(Daemon):
    """A daemon in a network namespace; what is run on it is run from there."""

    def __init__(self, namespace: str, *options: str) -> None:
        super().__init__(*options)
        self.namespace = namespace

    def command(self, *arguments: str) -> list[str]:
        return enter(self.namespace, super().command(*arguments))


class Plain:
    """Programs without ax, in one of the namespaces. They end with the test."""

    def __init__(self, namespace: str, stack: contextlib.ExitStack) -> None:
        self.namespace = namespace
        self._stack = stack

    def start(self, *argv: str | Path, listening: int) -> App:
        app = App(enter(self.namespace, argv), self._environment())
        self._stack.enter_context(app)

        def there() -> bool:
            assert app.running(), f"ended before it listened on {listening}\n{app}"
            return self.listens(listening)

        wait_until(there, lambda: f"listening on {listening}\n{app}")
        return app

    def listens(self, port: int) -> bool:
        words = enter(self.namespace, ["ss", "-Hltn", f"sport = :{port}"])
        return bool(subprocess.run(words, check=True, capture_output=True).stdout.strip())

    def run(
        self, *argv: str | Path, status: int | None = 0, patience: float = 15.0
    ) -> subprocess.CompletedProcess[str]:
        words = enter(self.namespace, argv)
        with App(words, self._environment()) as app:
            ended = app.wait(patience)
            assert status is None or ended == status, f"status {ended}, not {status}, of\n{app}"
            return subprocess.CompletedProcess(words, ended, app.stdout, app.stderr)

    def _environment(self) -> dict[str, str]:
        return os.environ | ENVIRONMENT
