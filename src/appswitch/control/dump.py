"""What goes along with a bug report: how the daemon is doing, and nothing that is secret.

What may be secret is left out where it is collected: tokens, first bytes and what was read from them, payload, the
environment of programs, the words of commands but the first, and the values that policies and routes compare with.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import time
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

import appswitch
from appswitch.control import logs
from appswitch.control.link import SwitchDownError, SwitchLink
from appswitch.control.resources.service import Resources
from appswitch.control.settings import Settings
from appswitch.model import AppRow, ConnectionRow

TABLES = ("apps", "servers", "sockets", "connections", "backends", "proxies", "stats", "log")
ROWS = 2000  # of each table, at most
_SYSCTLS = (
    "kernel/random/boot_id",
    "kernel/seccomp/actions_avail",
    "kernel/unprivileged_userns_clone",
    "kernel/yama/ptrace_scope",
    "net/core/somaxconn",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/ip_unprivileged_port_start",
    "net/unix/max_dgram_qlen",
    "user/max_user_namespaces",
)
_STATUS = ("Name", "State", "Threads", "VmRSS", "VmHWM", "FDSize", "voluntary_ctxt_switches", "Seccomp", "CapEff")


async def collect(settings: Settings, link: SwitchLink, resources: Resources) -> dict[str, Any]:
    """Everything, ready for JSON. What cannot be had says why."""
    tables = {name: await _table(link, name) for name in TABLES}
    pids = {"keeper": settings.keeper, "switch": link.pid, "control": os.getpid()}
    log = {"switch": tables.pop("log"), "control": list(logs.RECENT)}
    return {
        "version": appswitch.__version__,
        "made": time.time(),
        "system": {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "python": sys.version,
            "libraries": _libraries(),
            "sysctl": {name: _text(Path("/proc/sys") / name) for name in _SYSCTLS},
        },
        "options": _options(settings),
        "processes": {name: await asyncio.to_thread(_process, pid) for name, pid in pids.items()},
        "restarts": link.restarts,
        "tables": tables,
        "resources": [
            {"kind": entry.key[0], "name": entry.resource.name, "uid": entry.resource.uid}
            for entry in resources.catalog.entries()
        ],
        "log": log,
    }


async def _table(link: SwitchLink, name: str) -> Any:
    if not link.connected.is_set():
        return "the switch is away"
    try:
        rows = getattr(await link.query(name), name)
    except SwitchDownError as err:
        return str(err)
    if isinstance(rows, dict):
        return rows
    return [msgspec.to_builtins(_public(row)) for row in rows[:ROWS]] + (
        [f"and {len(rows) - ROWS} more"] if len(rows) > ROWS else []
    )


def _public(row: Any) -> Any:
    """The row without what may be secret."""
    if isinstance(row, AppRow):
        command = (*row.app.command[:1], f"({len(row.app.command)} words)")
        return msgspec.structs.replace(row, app=msgspec.structs.replace(row.app, command=command))
    return msgspec.structs.replace(row, attributes={}) if isinstance(row, ConnectionRow) else row


def _options(settings: Settings) -> dict[str, Any]:
    shown = {name: getattr(settings, name) for name in settings.__struct_fields__ if name != "token"}
    return {name: str(value) for name, value in shown.items()} | {"token": "set" if settings.token else "not set"}


def _process(pid: int) -> dict[str, Any]:
    """Limits and use of one of the daemon's processes: proc_pid_limits(5), _status(5), _fd(5)."""
    place = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in _text(place / "status").splitlines() if ":" in line)
    kinds: Counter[str] = Counter()
    try:
        for entry in (place / "fd").iterdir():
            kinds[_kind(entry)] += 1
    except OSError as err:
        kinds[f"cannot be seen: {err.strerror}"] = 1
    return {
        "pid": pid,
        "status": {name: status[name].strip() for name in _STATUS if name in status},
        "limits": _text(place / "limits").splitlines(),
        "descriptors": dict(kinds),
    }


def _kind(entry: Path) -> str:
    """``socket``, ``anon_inode:[eventpoll]``, ``/dev/null``; of other files only that they are some."""
    try:
        link = str(entry.readlink())
    except OSError:
        return "gone"
    if link.startswith("/"):
        return link.split(maxsplit=1)[0] if link.startswith(("/dev/", "/memfd:")) else "file"
    return link if link.startswith("anon_inode:") else link.partition(":")[0]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError as err:
        return f"({err.strerror})"


def _libraries() -> dict[str, str]:
    found = {}
    for line in metadata.requires("appswitch") or ():
        name = line.split(";")[0].split(">")[0].split("=")[0].strip()
        if "extra ==" not in line:
            found[name] = metadata.version(name)
    return found
