"""Two programs on two addresses: what a client and a server see of each other.

    pair.py server OWN OTHER      listens on 7000 (all its addresses) and 7001 (its own), until told to stop
    pair.py client OWN OTHER      asks it everything, and prints both sides' answers

Addresses are told by role ("client", "server"), so that it prints the same wherever it runs.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import select
import socket
import struct
import sys
import threading
from typing import Any

ROLES: dict[str, str] = {}
SIZE = 4_000_000


def role(address: Any) -> str:
    return f"{ROLES.get(address[0], address[0])}:{address[1] if address[1] in (7000, 7001) else 'its port'}"


def block(seed: int) -> bytes:
    return hashlib.shake_128(struct.pack("!I", seed)).digest(SIZE)


def names(one: socket.socket) -> list[str]:
    return [role(one.getsockname()), role(one.getpeername())]


# ---- server


def serve(own: str, family: socket.AddressFamily) -> None:
    everywhere = socket.create_server(("", 7000), family=family, backlog=200)
    here = socket.create_server((own, 7001), family=family, backlog=200)
    stop = threading.Event()
    threads = [threading.Thread(target=accept, args=(one, stop), daemon=True) for one in (everywhere, here)]
    for thread in threads:
        thread.start()
    print("listening", flush=True)
    stop.wait()


def accept(listener: socket.socket, stop: threading.Event) -> None:
    while True:
        one, address = listener.accept()
        threading.Thread(target=answer, args=(one, address, stop), daemon=True).start()


def answer(one: socket.socket, address: Any, stop: threading.Event) -> None:
    with one, contextlib.suppress(ConnectionError):
        stream = one.makefile("rb")
        while line := stream.readline():
            command, _, argument = line.decode().strip().partition(" ")
            if command == "names":
                seen = [role(address), *names(one), address[1]]
                one.sendall(json.dumps(seen).encode() + b"\n")
            elif command == "echo":
                one.sendall(argument.encode() + b"\n")
            elif command == "take":
                one.sendall(hashlib.sha256(stream.read(SIZE)).hexdigest().encode() + b"\n")
            elif command == "give":
                one.sendall(block(int(argument)))
            elif command == "half":
                count = len(stream.read())
                one.sendall(f"{count}\n".encode())
                return
            elif command == "close":
                return
            elif command == "stop":
                stop.set()


# ---- client


def ask(one: socket.socket, command: str) -> str:
    one.sendall(command.encode() + b"\n")
    return one.makefile("r").readline().strip()


def connect(family: socket.AddressFamily, address: tuple[str, int], bind: str | None = None) -> socket.socket:
    one = socket.socket(family)
    one.settimeout(5)
    if bind is not None:
        one.bind((bind, 0))
    one.connect(address)
    return one


def client(own: str, other: str, family: socket.AddressFamily) -> None:
    for port in (7000, 7001):
        with connect(family, (other, port)) as one:
            seen = json.loads(ask(one, "names"))
            print(f"{port}: client sees {names(one)}, server sees {seen[:3]}")
            print("the same port on both sides:", one.getsockname()[1] == seen[3])
    with connect(family, (other, 7000), bind=own) as one:
        print("bound to its address:", json.loads(ask(one, "names"))[:3])
    with connect(family, (other, 7000), bind="") as one:
        bound = one.getsockname()[1]
        print("bound to any:", json.loads(ask(one, "names"))[:3], one.getsockname()[1] == bound)
    print("refused:", errno.errorcode[socket.socket(family).connect_ex((other, 7002))])
    loopback = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    print("the server is not on our loopback:", errno.errorcode[socket.socket(family).connect_ex((loopback, 7000))])
    print("nor on our own address:", errno.errorcode[socket.socket(family).connect_ex((own, 7000))])
    with socket.socket(family) as one:
        one.setblocking(False)
        first = one.connect_ex((other, 7000))
        poll = select.epoll()
        poll.register(one, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        events = poll.poll(5)
        print("non-blocking:", errno.errorcode.get(first), [event for _, event in events] == [select.EPOLLOUT])
        print("SO_ERROR:", one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), names(one))
        poll.close()
    with connect(family, (other, 7000)) as one:
        one.sendall(b"take\n")
        one.sendall(block(1))
        print("sent whole:", one.makefile("r").readline().strip() == hashlib.sha256(block(1)).hexdigest())
        one.sendall(b"give 2\n")
        got = one.makefile("rb").read(SIZE)
        print("received whole:", got == block(2))
    with connect(family, (other, 7000)) as one:
        one.sendall(b"half\n" + b"x" * 1000)
        one.shutdown(socket.SHUT_WR)
        print("half closed:", one.makefile("r").readline().strip(), one.recv(1))
    with connect(family, (other, 7000)) as one:
        one.sendall(b"close\n")
        print("closed by the server:", one.recv(1))
    several = [connect(family, (other, 7000)) for _ in range(50)]
    answers = [ask(one, f"echo {number}") for number, one in enumerate(several)]
    print("fifty at once:", answers == [str(number) for number in range(50)])
    ports = {one.getsockname()[1] for one in several}
    print("fifty ports:", len(ports))
    for one in several:
        one.close()
    lines: list[bool] = []

    def work(number: int) -> None:
        for turn in range(10):
            with connect(family, (other, 7001)) as mine:
                lines.append(ask(mine, f"echo {number}-{turn}") == f"{number}-{turn}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("threads:", lines.count(True))
    with connect(family, (other, 7000)) as one:
        one.sendall(b"stop\n")
        with contextlib.suppress(ConnectionError):
            print("the server stopped:", one.recv(1))


if __name__ == "__main__":
    which, mine, theirs = sys.argv[1:4]
    kind = socket.AF_INET6 if ":" in mine else socket.AF_INET
    server_ip, client_ip = (mine, theirs) if which == "server" else (theirs, mine)
    ROLES |= {server_ip: "server", client_ip: "client"}
    if which == "server":
        serve(mine, kind)
    else:
        client(mine, theirs, kind)
