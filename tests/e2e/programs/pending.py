"""Many connections that wait in queues at once. server PORT FILE: accepts only when FILE is there, tells each its peer.

client PORT FILE COUNT HOST...: COUNT connections to each host, then makes FILE, and checks what each is told.
"""

from __future__ import annotations

import pathlib
import socket
import sys
import time

WHAT, PORT, FILE = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])

if WHAT == "server":
    with socket.create_server(("", PORT), backlog=200) as listener:
        while not FILE.exists():
            time.sleep(0.01)
        while True:
            sock, peer = listener.accept()
            with sock:
                sock.sendall("{} {}".format(*peer).encode())
                sock.recv(1)
else:
    waiting = [socket.create_connection((host, PORT), 10) for _ in range(int(sys.argv[4])) for host in sys.argv[5:]]
    FILE.touch()
    wrong = []
    for sock in waiting:
        told, own = sock.recv(100).decode(), "{} {}".format(*sock.getsockname())
        sock.close()
        if told != own:
            wrong.append(f"{own} was told {told!r}")
    print(len(waiting), "connections,", len(wrong), "wrong", *wrong[:3])
