"""Many connections that wait in queues at once. server PORT FIFO: accepts only when told so, tells each its peer.

client PORT FIFOS COUNT HOST...: COUNT connections to each host, then tells the servers, each by its FIFO, and checks
what each connection is told. FIFOs are given as one word, with commas.
"""

from __future__ import annotations

import pathlib
import socket
import sys

WHAT, PORT, FIFOS = sys.argv[1], int(sys.argv[2]), [pathlib.Path(one) for one in sys.argv[3].split(",")]

if WHAT == "server":
    with socket.create_server(("", PORT), backlog=200) as listener:
        FIFOS[0].read_bytes()
        while True:
            sock, peer = listener.accept()
            with sock:
                sock.sendall("{} {}".format(*peer).encode())
                sock.recv(1)
else:
    waiting = [socket.create_connection((host, PORT), 10) for _ in range(int(sys.argv[4])) for host in sys.argv[5:]]
    for fifo in FIFOS:
        fifo.write_bytes(b"go")
    wrong = []
    for sock in waiting:
        told, own = sock.recv(100).decode(), "{} {}".format(*sock.getsockname())
        sock.close()
        if told != own:
            wrong.append(f"{own} was told {told!r}")
    print(len(waiting), "connections,", len(wrong), "wrong", *wrong[:3])
