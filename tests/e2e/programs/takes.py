"""A proxy at the delegation endpoint: NAME WAY. Prints "ready", and the metadata of each connection that it gets.

What it serves is answered with that metadata, as an HTTP response.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import threading

from appswitch.delegate.messages import (
    MAX_PACKET,
    Action,
    Ask,
    Done,
    Handover,
    Hello,
    Received,
    ToDaemon,
    Verdict,
    Welcome,
    Withdrawn,
    decode_from_daemon,
    encode,
)
from appswitch.delegate.metadata import Metadata
from appswitch.paths import run_dir

NAME, WAY = sys.argv[1:]
link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
asked: dict[int, Metadata] = {}


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


def accepts(known: Metadata) -> None:
    say(Verdict(known.connection, Action.ACCEPT))


def passes(known: Metadata) -> None:
    say(Verdict(known.connection, Action.PASS))


def drops(known: Metadata) -> None:
    say(Verdict(known.connection, Action.DROP))


def hands_on(known: Metadata) -> None:
    say(Verdict(known.connection, Action.NEXT))


def fails(known: Metadata) -> None:
    say(Verdict(known.connection, Action.FAIL))


def is_silent(_known: Metadata) -> None:
    pass


def dies(_known: Metadata) -> None:
    os._exit(0)


def accepts_and_dies(known: Metadata) -> None:
    say(Verdict(known.connection, Action.ACCEPT))
    select.select([link], [], [])  # the descriptors are there, and nobody takes them
    os._exit(0)


def answers_twice(known: Metadata) -> None:
    for action in (Action.ACCEPT, Action.PASS, Action.DROP, Action.ACCEPT, Action.NEXT):
        say(Verdict(known.connection, action))


def answers_for_others(known: Metadata) -> None:
    for number in range(1, 12):
        if number != known.connection:
            say(Verdict(number, Action.PASS))
            say(Verdict(number, Action.ACCEPT))
            say(Received(number))
            say(Done(number))
    say(Verdict(known.connection, Action.PASS))


def floods(known: Metadata) -> None:
    for _ in range(20000):
        say(Done(known.connection + 1))


def sends_descriptors(known: Metadata) -> None:
    say(Verdict(known.connection, Action.PASS), link.fileno())


def speaks_nonsense(_known: Metadata) -> None:
    link.send(b"nonsense")


def greets_again(_known: Metadata) -> None:
    say(Hello(NAME))


WAYS = {
    "accepts": accepts,
    "passes": passes,
    "drops": drops,
    "hands on": hands_on,
    "fails": fails,
    "is silent": is_silent,
    "dies": dies,
    "accepts and dies": accepts_and_dies,
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
        match decode_from_daemon(packet, len(fds)):
            case Ask(known):
                print(told(known), flush=True)
                asked[known.connection] = known
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it was cut off
                    WAYS[WAY](known)
            case Handover(number):
                print("has", number, flush=True)
                say(Received(number))
                sock = socket.socket(fileno=fds.pop())
                threading.Thread(target=serve, args=(asked.pop(number), sock), daemon=True).start()
            case Withdrawn(number, reason):
                print("withdrawn", number, reason.name, flush=True)
            case _:
                return


main()
