"""The process that an app began as: who that is now."""

from __future__ import annotations

import os
import subprocess
import sys

from appswitch._kernel import Fd
from appswitch.model import AppSpec
from appswitch.parent import started
from appswitch.switch.apps import App, Origin, current

ME = Origin(os.getpid(), started(os.getpid()), 5.0)
GONE = Origin(attached=5.0)


def test_a_process_is_known_again() -> None:
    assert current(ME) == ME


def test_a_pid_that_was_used_again_is_nobody() -> None:
    assert current(ME._replace(started="1")) == GONE
    assert current(GONE) == GONE


def test_a_zombie_is_nobody() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        origin = Origin(child.pid, started(child.pid), 5.0)
        assert current(origin) == origin
        assert child.stdin is not None
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert current(origin) == GONE


def test_who_speaks_for_an_app() -> None:
    spec = AppSpec(id=1, uid=0, gid=0, node="n", cluster="c", command=("x",), created=0.0)

    def app(origin: Origin) -> App:
        return App(spec, Fd(os.open("/dev/null", os.O_RDONLY)), origin)

    assert app(ME).is_process(ME.pid)
    assert not app(ME).is_process(os.getppid())
    assert not app(ME._replace(started="1")).is_process(ME.pid)
    assert not app(GONE).is_process(0), "of another pid namespace: SO_PEERCRED"
