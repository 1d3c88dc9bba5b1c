"""Clients of one process: each asks for a path, says what it got, and stays until the input ends."""

from __future__ import annotations

import socket
import sys


def main() -> None:
    """IP PORT PATH...; what each got, and its own address."""
    kept = []
    for path in sys.argv[3:]:
        sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: here.test\r\nX-Path: {path}\r\n\r\n".encode())
        answer = sock.recv(100).decode().strip()
        own = sock.getsockname()
        print(path, answer, own[0], own[1], flush=True)
        kept.append(sock)
    print("done", flush=True)
    sys.stdin.read()


main()
