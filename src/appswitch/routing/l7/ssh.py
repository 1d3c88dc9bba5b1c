"""SSH: the identification that both sides send at once, RFC 4253 section 4.2."""

from __future__ import annotations

import re

from appswitch.routing.l7.peeked import IncompleteError, MalformedError, Peeked
from appswitch.routing.l7.reading import begins, text

MAX_LINE = 255  # bytes with CRLF
_LINE = re.compile(rb"SSH-[0-9.]+-([!-~]+)( .*)?\r?\n")


def sniff(data: bytes) -> bool | None:
    """``SSH-``."""
    return begins(data, b"SSH-")


def parse(data: bytes, final: bool) -> Peeked:
    """Which software the client is: "OpenSSH_9.2p1"."""
    line, end, _ = data[:MAX_LINE].partition(b"\n")
    if not end and len(data) < MAX_LINE:
        raise IncompleteError
    found = _LINE.fullmatch(line + end)
    if found is None:
        raise MalformedError
    return Peeked("ssh", {"ssh.software": text(found[1])})
