"""PostgreSQL: a process for each connection, Unix sockets of its own, and addresses in its access rules."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from e2e.postgres import BIN, postgres
from e2e.world import World, wait_output
from harness import App, wait_until


@pytest.fixture
def server(world: World, cluster: Path, place: Path) -> App:
    return postgres(world, cluster, place, world.addresses.v4())


def psql(world: World, host: str | Path, command: str, ip: str | None = None) -> str:
    words = [BIN / "psql", "-X", "-h", host, "-U", "postgres", "-At", "-c", command]
    return world.run(*words, ip=ip).stdout.strip()


def test_addresses_on_both_sides(world: World, server: App) -> None:
    client = world.addresses.v4()
    row = "SELECT inet_client_addr(), inet_server_addr(), inet_server_port()"
    assert psql(world, server.ip, row, ip=client) == f"{client}|{server.ip}|5432"
    assert f"connection received: host={client} port=" in server.stderr


def test_its_unix_socket_is_left_alone(world: World, server: App, place: Path) -> None:
    outside = subprocess.run(
        [BIN / "psql", "-X", "-h", place, "-U", "postgres", "-At", "-c", "SELECT inet_client_addr() IS NULL"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert outside.stdout.strip() == "t"
    assert psql(world, place, "SELECT inet_client_addr() IS NULL") == "t"


def test_pgbench(world: World, server: App) -> None:
    login = ["-h", server.ip, "-U", "postgres"]
    world.run(BIN / "pgbench", *login, "-i", "-s", "1", "-q", "postgres")
    got = world.run(BIN / "pgbench", *login, "-c", "4", "-j", "2", "-t", "50", "postgres")
    assert "number of transactions actually processed: 200/200" in got.stdout
    assert "number of failed transactions: 0" in got.stdout
    # A connection for each transaction.
    got = world.run(BIN / "pgbench", *login, "-C", "-n", "-S", "-c", "4", "-j", "2", "-t", "20", "postgres")
    assert "number of transactions actually processed: 80/80" in got.stdout
    assert psql(world, server.ip, "SELECT count(*) FROM pgbench_history") == "200"


def test_a_query_is_cancelled_over_a_second_connection(world: World, server: App) -> None:
    client = world.start(BIN / "psql", "-X", "-h", server.ip, "-U", "postgres", "-c", "SELECT pg_sleep(60)")
    busy = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    wait_until(lambda: psql(world, server.ip, busy) == "1", "the query to run")
    client.send(signal.SIGINT)
    assert client.wait() == 1
    assert "canceling statement due to user request" in client.stderr


def test_copy_of_many_rows(world: World, server: App) -> None:
    rows = "".join(f"{n}\t{'x' * 80}\n" for n in range(20000))
    psql(world, server.ip, "CREATE TABLE t (n int, s text)")
    words = [BIN / "psql", "-X", "-h", server.ip, "-U", "postgres", "-At"]
    world.run(*words, "-c", "COPY t FROM STDIN", input=rows)
    assert world.run(*words, "-c", "COPY (SELECT * FROM t ORDER BY n) TO STDOUT").stdout == rows


def test_access_rules_see_virtual_addresses(world: World, server: App, place: Path) -> None:
    friend, stranger = world.addresses.v4(), world.addresses.v4()
    (place / "data" / "pg_hba.conf").write_text(f"host all all {friend}/32 trust\n")
    server.send(signal.SIGHUP)
    wait_output(server, "reloading configuration files")
    words = [BIN / "psql", "-X", "-h", server.ip, "-U", "postgres", "-c", "SELECT 1"]
    wait_until(lambda: world.run(*words, ip=stranger, status=None).returncode == 2, "the stranger to be refused")
    refused = world.run(*words, ip=stranger, status=2)
    assert f'no pg_hba.conf entry for host "{stranger}"' in refused.stderr
    world.run(*words, ip=friend)


def test_ipv6(world: World, cluster: Path, place: Path) -> None:
    server = postgres(world, cluster, place, world.addresses.v6())
    client = world.addresses.v6()
    assert psql(world, server.ip, "SELECT inet_client_addr()", ip=client) == client


def test_a_clean_shutdown(world: World, server: App) -> None:
    assert psql(world, server.ip, "SELECT 1") == "1"
    assert server.stop(signal.SIGINT) == 0
    assert "database system is shut down" in server.stderr
