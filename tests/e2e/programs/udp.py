"""UDP by hand: a server that tells who it is and whom it hears, and clients that print what they get.

udp.py serve ADDRESS PORT NAME      answers NAME, the client's address, and what it was sent
udp.py ask ADDRESS PORT COUNT       COUNT sockets, connected, one question each
udp.py follow ADDRESS PORT          one connected socket; for each line of standard input, a question; prints answers
udp.py talk PORT                    one unconnected socket; for each line "ADDRESS PORT TEXT" a question; prints answers
udp.py chat ADDRESS PORT            one connected socket; a thread prints what arrives, the other sends lines
udp.py sizes ADDRESS PORT SIZE...   an unconnected socket; datagrams of these sizes, echoed
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from pathlib import Path

PATIENCE = 10.0


def made(address: str) -> socket.socket:
    one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    one.settimeout(PATIENCE)
    return one


def serve(address: str, port: str, name: str) -> None:
    with made(address) as server:
        server.settimeout(None)
        server.bind((address, int(port)))
        print("serving", *server.getsockname()[:2], flush=True)
        while True:
            data, peer = server.recvfrom(65536)
            head = f"{name} {peer[0]} {peer[1]} ".encode()
            server.sendto(data if name == "echo" else head + data, peer)


def ask(address: str, port: str, count: str) -> None:
    for number in range(int(count)):
        with made(address) as client:
            client.connect((address, int(port)))
            client.send(b"question %d" % number)
            print(client.recv(65536).decode(), client.getsockname()[:2] + client.getpeername()[:2])


def follow(address: str, port: str) -> None:
    with made(address) as client:
        client.connect((address, int(port)))
        print("connected", flush=True)
        for line in sys.stdin:
            client.getsockname()
            try:
                client.send(line.strip().encode())
                print(client.recv(65536).decode(), *client.getpeername()[:2], flush=True)
            except OSError as error:
                print("error", error.errno, flush=True)


def talk(port: str) -> None:
    with made("0.0.0.0") as client:
        client.settimeout(1)  # second: who is asked goes on asking
        if port != "0":
            client.bind(("0.0.0.0", int(port)))
        print("ready", flush=True)
        for line in sys.stdin:
            to, number, text = line.split()
            client.sendto(text.encode(), (to, int(number)))
            try:
                data, peer = client.recvfrom(65536)
                print(data.decode(), *peer[:2], "as", client.getsockname()[0], flush=True)
            except OSError as error:
                print("silence", error, flush=True)


def chat(address: str, port: str) -> None:
    with made(address) as client:
        client.settimeout(None)

        def listen() -> None:
            while True:
                try:
                    print(client.recv(65536).decode(), *client.getpeername()[:2], *client.getsockname()[:1], flush=True)
                except OSError as error:
                    print("error", error.errno, flush=True)

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        call = Path(f"/proc/self/task/{listener.native_id}/syscall")
        while hex(client.fileno()) not in call.read_text().split():  # until it waits
            time.sleep(0.01)  # nothing else tells that a thread has begun to wait
        client.connect((address, int(port)))
        print("connected", flush=True)
        for line in sys.stdin:
            try:
                client.send(line.strip().encode())
            except OSError as error:
                print("error", error.errno, flush=True)


def sizes(address: str, port: str, *wanted: str) -> None:
    with made(address) as client:
        for size in map(int, wanted):
            data = bytes(n % 251 for n in range(size))
            try:
                client.sendto(data, (address, int(port)))
            except OSError as error:
                print(size, error.errno)
                continue
            got, peer = client.recvfrom(65536)
            print(size, got == data, *peer[:2])


if __name__ == "__main__":
    commands = {"serve": serve, "ask": ask, "follow": follow, "talk": talk, "chat": chat, "sizes": sizes}
    commands[sys.argv[1]](*sys.argv[2:])
