"""Descriptors that come along with a request, unasked for: unix(7), SCM_RIGHTS.

Whoever receives the bytes closes them, and close(2) of a socket with SO_LINGER may take as long as its owner likes.
Everybody's requests and DNS queries would wait with it.
"""

from __future__ import annotations

import signal
import socket

SO_PASSRIGHTS = 83  # Linux 6.16: with 0 the sender gets EPERM. Accepted sockets have it from their listener
TICK = 0.05  # seconds


def refuse(listener: socket.socket) -> bool:
    """Let nobody send any. False: the kernel is older than that."""
    try:
        listener.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True


def wait_for_none() -> None:
    """Where they cannot be refused: a signal ends whatever call the process is in, again and again."""
    signal.signal(signal.SIGALRM, lambda _number, _frame: None)
    signal.siginterrupt(signal.SIGALRM, True)
    signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
