"""A server that greets and records: WORD PORT. Each connection gets WORD at once, and is read to its end.

Then a line of JSON: who it was, how many bytes came, and their SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import sys
import threading

WORD, PORT = sys.argv[1].encode(), int(sys.argv[2])
turn = threading.Lock()


def record(sock: socket.socket, peer: str) -> None:
    digest, length, end = hashlib.sha256(), 0, "eof"
    with sock:
        with contextlib.suppress(BrokenPipeError):  # who is gone may have said something all the same
            sock.sendall(WORD)
        try:
            while data := sock.recv(1 << 16):
                digest.update(data)
                length += len(data)
        except OSError as error:
            end = type(error).__name__
    with turn:
        print(json.dumps({"peer": peer, "bytes": length, "sha256": digest.hexdigest(), "end": end}), flush=True)


with socket.create_server(("", PORT), backlog=128) as listener:
    while True:
        sock, peer = listener.accept()
        threading.Thread(target=record, args=(sock, f"{peer[0]}:{peer[1]}"), daemon=True).start()
