"""PostgreSQL servers, each with a copy of one empty cluster."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.world import ENVIRONMENT, World, wait_output
from harness import App

BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
CONF = """
listen_addresses = '*'
port = 5432
fsync = off
shared_buffers = 16MB
max_connections = 40
unix_socket_directories = '{place}'
log_connections = on
jit = off
"""
RULES = """
local all all trust
host all all 10.0.0.0/8 trust
host all all fd00::/8 trust
"""


@contextmanager
def template() -> Iterator[Path]:
    """An empty cluster of the user postgres; each server takes a copy."""
    place = Path(tempfile.mkdtemp(prefix="axt-pg-", dir="/tmp"))
    user = pwd.getpwnam("postgres")
    os.chown(place, user.pw_uid, user.pw_gid)
    try:
        subprocess.run(
            [BIN / "initdb", "-D", place / "data", "-A", "trust", "--no-sync", "--no-locale", "-E", "UTF8"],
            user="postgres", group="postgres", extra_groups=[], cwd="/", check=True, capture_output=True,
            env=os.environ | ENVIRONMENT,
        )  # fmt: skip
        yield place / "data"
    finally:
        shutil.rmtree(place)


def postgres(world: World, cluster: Path, place: Path, ip: str) -> App:
    user = pwd.getpwnam("postgres")
    os.chown(place, user.pw_uid, user.pw_gid)
    subprocess.run(["cp", "-a", cluster, place / "data"], check=True)
    (place / "data" / "postgresql.conf").write_text(CONF.format(place=place))
    (place / "data" / "pg_hba.conf").write_text(RULES)
    app = world.start(BIN / "postgres", "-D", place / "data", ip=ip, user="postgres", listening=5432)
    wait_output(app, "ready to accept connections")
    return app
