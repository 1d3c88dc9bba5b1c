"""redis-server: one thread and an epoll set, blocking commands, subscriptions, replication, I/O threads."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest
from e2e.servers import redis
from e2e.world import World, hang_up, say, wait_output
from harness import wait_until


def cli(world: World, server: str, *words: str, ip: str | None = None) -> str:
    return world.run("redis-cli", "-h", server, *words, ip=ip).stdout.strip()


@pytest.mark.also("tcp", "rootless")
def test_commands_and_the_clients_address(world: World, place: Path) -> None:
    server = redis(world, place)
    client = world.addresses.v4()
    assert cli(world, server.ip, "set", "k", "v") == "OK"
    assert cli(world, server.ip, "get", "k") == "v"
    seen = cli(world, server.ip, "client", "list", ip=client)
    assert re.search(rf"\baddr={re.escape(client)}:\d+ laddr={re.escape(server.ip)}:6379\b", seen), seen


@pytest.mark.also("tcp")
@pytest.mark.parametrize("pipeline", [1, 16])
def test_benchmark(world: World, place: Path, pipeline: int) -> None:
    server = redis(world, place)
    got = world.run(
        "redis-benchmark",
        "-h",
        server.ip,
        "-q",
        "-n",
        "4000",
        "-c",
        "50",
        "-P",
        str(pipeline),
        "-t",
        "set,get,incr,lpush",
    )
    assert len(re.findall(r"requests per second", got.stdout)) == 4, got.stdout
    assert cli(world, server.ip, "get", "counter:__rand_int__") == "4000"
    # Every connection of the benchmark has been seen to end.
    wait_until(
        lambda: "connected_clients:1\n" in cli(world, server.ip, "info", "clients"),
        "the closed connections to be noticed",
    )


def test_hundreds_of_clients(world: World, place: Path) -> None:
    server = redis(world, place)
    got = world.run("redis-benchmark", "-h", server.ip, "-q", "-n", "4000", "-c", "600", "-t", "ping_mbulk,incr")
    assert len(re.findall(r"requests per second", got.stdout)) == 2, got.stdout
    assert cli(world, server.ip, "get", "counter:__rand_int__") == "4000"


def test_a_blocking_command_wakes_up(world: World, place: Path) -> None:
    server = redis(world, place)
    waiting = world.start("redis-cli", "-h", server.ip, "blpop", "queue", "15")
    wait_until(lambda: "cmd=blpop" in cli(world, server.ip, "client", "list"), "BLPOP to block")
    cli(world, server.ip, "rpush", "queue", "work")
    assert waiting.wait() == 0
    assert waiting.stdout.split() == ["queue", "work"]


def test_publish_and_subscribe(world: World, place: Path) -> None:
    server = redis(world, place)
    readers = [world.start("redis-cli", "-h", server.ip, "subscribe", "news", stdin=subprocess.PIPE) for _ in range(3)]
    for reader in readers:
        wait_output(reader, r"subscribe\nnews\n1\n")
    assert cli(world, server.ip, "publish", "news", "hello") == "3"
    for reader in readers:
        wait_output(reader, r"message\nnews\nhello\n")
        reader.stop(signal.SIGINT)


def test_one_long_connection_survives_many_short_ones(world: World, place: Path) -> None:
    server = redis(world, place)
    long = world.start("redis-cli", "-h", server.ip, stdin=subprocess.PIPE)
    say(long, "set mine kept\n")
    wait_output(long, "OK")
    world.run("redis-benchmark", "-h", server.ip, "-q", "-n", "300", "-c", "10", "-k", "0", "-t", "ping_mbulk")
    say(long, "get mine\n")
    wait_output(long, "kept")
    hang_up(long)
    assert long.wait() == 0


def test_a_replica_follows_its_master(world: World, place: Path) -> None:
    (place / "1").mkdir()
    (place / "2").mkdir()
    master = redis(world, place / "1", "--repl-diskless-sync-delay", "0")
    replica = redis(world, place / "2", "--replicaof", master.ip, "6379")
    wait_until(lambda: "master_link_status:up" in cli(world, replica.ip, "info", "replication"), "the first copy")
    cli(world, master.ip, "set", "k", "copied")
    wait_until(lambda: cli(world, replica.ip, "get", "k") == "copied", "the copy to arrive")
    assert f"slave0:ip={replica.ip},port=6379,state=online" in cli(world, master.ip, "info", "replication")


def test_io_threads(world: World, place: Path) -> None:
    server = redis(world, place, "--io-threads", "3", "--io-threads-do-reads", "yes")
    got = world.run(
        "redis-benchmark", "-h", server.ip, "-q", "-n", "4000", "-c", "20", "-P", "8", "--threads", "2", "-t", "set,get"
    )
    assert len(re.findall(r"requests per second", got.stdout)) == 2, got.stdout


def test_ipv6(world: World, place: Path) -> None:
    server = redis(world, place, ip=world.addresses.v6())
    client = world.addresses.v6()
    assert f"addr=[{client}]:" in cli(world, server.ip, "client", "list", ip=client)
    world.run("redis-benchmark", "-h", server.ip, "-q", "-n", "500", "-c", "20", "-t", "ping_mbulk", ip=client)
