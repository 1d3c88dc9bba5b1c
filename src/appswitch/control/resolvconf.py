"""The resolv.conf of apps that ask for it (``--dns-override``): it names the daemon and nobody else."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from appswitch.paths import RunDir

NAMESERVER = "127.0.0.53"  # in the app's namespace; what systemd-resolved has taught programs to expect
MODE = 0o644


def text(domain: str) -> str:
    """resolv.conf(5)."""
    return f"# Made by AppSwitch for ax run --dns-override.\nnameserver {NAMESERVER}\nsearch {domain}\noptions edns0\n"


def write(run_dir: RunDir, domain: str) -> str:
    """Its path, for the launcher. It is written when it is not there, and replaced as a whole: apps see the old one."""
    path = run_dir.resolv_conf
    wanted = text(domain)
    with contextlib.suppress(OSError):
        if path.read_text() == wanted:
            return str(path)
    made, name = tempfile.mkstemp(prefix=".resolv.conf-", dir=run_dir.directory)
    with os.fdopen(made, "w") as file:
        os.fchmod(made, MODE)
        file.write(wanted)
    Path(name).replace(path)
    return str(path)
