"""Servers that several tests need, each started with a configuration of its own and nothing of the system's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from e2e.world import ENVIRONMENT, World
from harness import App

NGINX = """
daemon {daemon};
user {user};
worker_processes {workers};
pid {place}/nginx.pid;
error_log {place}/error.log info;
events {{ worker_connections 256; }}
http {{
    log_format seen '$remote_addr $server_addr $request $status $pid $http_user_agent';
    access_log {place}/access.log seen;
    default_type application/octet-stream;
    sendfile on;
    client_body_temp_path {place}/t1;
    proxy_temp_path {place}/t2;
    fastcgi_temp_path {place}/t3;
    uwsgi_temp_path {place}/t4;
    scgi_temp_path {place}/t5;
    client_max_body_size 64m;
    {http}
}}
"""

HELLO = """
server {
    listen %s;
    location / { return 200 "hello from $pid to $remote_addr on $server_addr:$server_port\\n"; }
    location /files/ { alias %s/; }
}
"""


class Nginx:
    """An nginx with its files in ``place``; ``http`` is what its http block holds (default: one greeting server)."""

    def __init__(
        self,
        place: Path,
        *,
        http: str = "",
        listen: str = "80",
        workers: int = 3,
        user: str = "root",
        daemon: str = "off",
    ) -> None:
        self.place = place
        place.mkdir(exist_ok=True)
        self.conf = place / "nginx.conf"
        self.conf.write_text(
            NGINX.format(place=place, workers=workers, http=http or HELLO % (listen, place), user=user, daemon=daemon)
        )
        self.argv = [
            str(shutil.which("nginx", path=ENVIRONMENT["PATH"])),
            "-p",
            str(place),
            "-e",
            str(place / "error.log"),
            "-c",
            str(self.conf),
        ]

    def pid(self) -> int:
        """Of the master, 0 as long as it has none."""
        path = self.place / "nginx.pid"
        return int(path.read_text() or 0) if path.exists() else 0

    @property
    def access(self) -> list[list[str]]:
        """The access log, a list of words a request: client, server, method, path, protocol, status, worker, agent."""
        path = self.place / "access.log"
        return [line.replace('"', "").split() for line in path.read_text().splitlines()] if path.exists() else []


def redis(world: World, place: Path, *options: str, ip: str | None = None) -> App:
    """A redis-server on port 6379 that keeps nothing."""
    return world.start(
        "redis-server", "--bind", "0.0.0.0", "-::*", "--port", "6379", "--protected-mode", "no", "--save", "",
        "--dir", place, *options, ip=ip, listening=6379,
    )  # fmt: skip


def certificate(place: Path, name: str, alternative: str = "") -> tuple[Path, Path]:
    """A self-signed certificate and its key; ``alternative`` names as in openssl's subjectAltName."""
    more = ["-addext", f"subjectAltName={alternative}"] if alternative else []
    cert, key = place / "cert.pem", place / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", *more, "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key
