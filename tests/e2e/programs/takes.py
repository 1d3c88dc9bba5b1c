"""A proxy at the delegation endpoint: NAME WAY. Prints "ready", and the metadata of each connection that it gets.

What it serves is answered with that metadata, as an HTTP response.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading

from appswitch.delegate.messages import (
    MAX_PACKET,
    Action,
    Done,
    Handover,
    Hello,
    ToDaemon,
    Verdict,
    Welcome,
    decode_from_daemon,
    encode,
)
from appswitch.delegate.metadata import Metadata
from appswitch.paths import run_dir

NAME, WAY = sys.argv[1:]
link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def say(message: ToDaemon, *fds: int) -> None:
    socket.send_fds(link, [encode(message)], fds)


def told(known: Metadata) -> str:
    return json.dumps(
        {
            "name": NAME,
            "source": str(known.source),
            "destination": str(known.destination),
            "client": known.client and known.client.name,
            "labels": dict(known.client.labels) if known.client else {},
            "server": known.server and known.server.name,
            "direction": known.direction,
            "vservice": known.vservice,
            "chain": known.chain,
            "path": known.attributes.get("http.path", ""),
            "peeked": known.peeked.decode(errors="replace"),
        }
    )


def serve(known: Metadata, sock: socket.socket) -> None:
    with sock:
        body = told(known)
        sock.recv(1 << 16)
        sock.sendall(f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1 << 16):
            pass
    say(Done(known.connection))


def accepts(known: Metadata, fds: list[int]) -> None:
    say(Verdict(known.connection, Action.ACCEPT))
    threading.Thread(target=serve, args=(known, socket.socket(fileno=fds.pop(0))), daemon=True).start()


def passes(known: Metadata, _fds: list[int]) -> None:
    say(Verdict(known.connection, Action.PASS))


def drops(known: Metadata, _fds: list[int]) -> None:
    say(Verdict(known.connection, Action.DROP))


def hands_on(known: Metadata, _fds: list[int]) -> None:
    say(Verdict(known.connection, Action.NEXT))


def fails(known: Metadata, _fds: list[int]) -> None:
    say(Verdict(known.connection, Action.FAIL))


def is_silent(_known: Metadata, _fds: list[int]) -> None:
    pass


def dies(_known: Metadata, _fds: list[int]) -> None:
    os._exit(0)


def answers_twice(known: Metadata, fds: list[int]) -> None:
    accepts(known, fds)
    for action in (Action.PASS, Action.DROP, Action.ACCEPT, Action.NEXT):
        say(Verdict(known.connection, action))


def answers_for_others(known: Metadata, _fds: list[int]) -> None:
    for number in range(1, 2000):
        if number != known.connection:
            say(Verdict(number, Action.PASS))
            say(Done(number))
    say(Verdict(known.connection, Action.PASS))


def floods(known: Metadata, _fds: list[int]) -> None:
    for _ in range(20000):
        say(Done(known.connection))
    say(Verdict(known.connection, Action.PASS))


def sends_descriptors(known: Metadata, fds: list[int]) -> None:
    say(Verdict(known.connection, Action.PASS), *fds)


def speaks_nonsense(_known: Metadata, _fds: list[int]) -> None:
    link.send(b"nonsense")


def greets_again(_known: Metadata, _fds: list[int]) -> None:
    say(Hello(NAME))


WAYS = {
    "accepts": accepts,
    "passes": passes,
    "drops": drops,
    "hands on": hands_on,
    "fails": fails,
    "is silent": is_silent,
    "dies": dies,
    "answers twice": answers_twice,
    "answers for others": answers_for_others,
    "floods": floods,
    "sends descriptors": sends_descriptors,
    "speaks nonsense": speaks_nonsense,
    "greets again": greets_again,
}


def main() -> None:
    link.connect(os.fspath(run_dir().delegate))
    say(Hello(NAME))
    assert isinstance(decode_from_daemon(link.recv(MAX_PACKET)), Welcome)
    print("ready", flush=True)
    while True:
        packet, fds, _, _ = socket.recv_fds(link, MAX_PACKET + 1, 4)
        if not packet:
            return
        message = decode_from_daemon(packet, len(fds))
        if not isinstance(message, Handover):
            return
        print(told(message.metadata), flush=True)
        WAYS[WAY](message.metadata, fds)
        for fd in fds:
            os.close(fd)


main()
