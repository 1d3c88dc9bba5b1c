"""What a figure depends on besides the code: written beside the figures."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
import timeit
from importlib import metadata
from pathlib import Path

import msgspec


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where the figures are from."""

    cpu: str
    cpus: int  # that this process may use
    memory_mb: int
    virtual: bool
    kernel: str
    python: str
    python_build: str
    python_ns: int  # for a little work that is always the same: how fast this build is, on this machine
    appswitch: str
    user: str  # "root" or "unprivileged"
    versions: dict[str, str]
    load: float  # of the minute before
    load_after: float = 0.0
    realtime: bool  # what is pinned was not interrupted by its neighbours

    @property
    def busy(self) -> bool:
        """Whether neighbours disturbed: what is measured needs hardly more than one processor at a time."""
        return not self.realtime and (self.load > self.cpus / 2 or self.load_after > self.cpus / 2 + 1)


def describe(realtime: bool = False) -> Machine:
    """This machine, now."""
    return Machine(
        cpu=_cpu(),
        cpus=len(os.sched_getaffinity(0)),
        memory_mb=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        virtual="hypervisor" in _cpuinfo("flags").split(),
        kernel=f"{platform.release()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        python_ns=_python_ns(),
        python_build=python_build(str(sysconfig.get_config_var("CONFIG_ARGS") or ""), sys.version),
        appswitch=_version("appswitch"),
        user="root" if os.geteuid() == 0 else "unprivileged",
        versions={name: _version(name) for name in ("msgspec", "uvicorn", "fastapi", "pydantic", "click")},
        load=round(os.getloadavg()[0], 2),
        realtime=realtime,
    )


def python_build(config_args: str, version: str) -> str:
    """The compiler, and what it was asked for that makes a difference. Distributions may optimize in other ways."""
    compiler = version[version.rfind("[") + 1 :].rstrip("]")
    asked = [word for word in ("--enable-optimizations", "--with-lto", "--with-pydebug") if word in config_args]
    return ", ".join([compiler, *asked])


class _Little:
    __slots__ = ("one", "two")

    def __init__(self, one: int, two: int) -> None:
        self.one = one
        self.two = two


def _python_ns() -> int:
    """Two calls, an object, a look-up: what handlers are made of. The best of several: it can only be disturbed."""
    table = {5: 1}

    def work(number: int) -> int:
        return table.get(_Little(number, number).two, number)

    return round(min(timeit.repeat(lambda: work(5), number=10_000, repeat=9)) / 10_000 * 1e9)


def _cpu() -> str:
    return _cpuinfo("model name") or _cpuinfo("CPU part") or platform.processor() or "unknown"


def _cpuinfo(key: str) -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "from the source tree"
