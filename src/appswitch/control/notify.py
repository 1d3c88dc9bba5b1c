"""The client's side of sd_notify(3): tell the keeper, or systemd, how control is doing."""

from __future__ import annotations

import os
import socket


def notify(text: str) -> None:
    """Send ``text`` ("READY=1", "STATUS=...") to ``$NOTIFY_SOCKET`` if there is one. Errors are nobody's business."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(text.encode(), address)
        except OSError:
            return
