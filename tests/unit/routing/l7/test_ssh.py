"""SSH: the identification."""

from __future__ import annotations

import pytest

from appswitch.routing.l7 import UNKNOWN, Peeked, peek


@pytest.mark.parametrize(
    ("line", "software"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", "OpenSSH_9.2p1"),
        (b"SSH-2.0-libssh2_1.10.0\n", "libssh2_1.10.0"),
        (b"SSH-2.0-Go\r\n\0\0\1", "Go"),
        (b"SSH-1.99-with-a-hyphen\r\n", "with-a-hyphen"),
        (b"SSH-2.0-x \xff\r\n", "x"),
    ],
)
def test_software(line: bytes, software: str) -> None:
    assert peek(line, final=False) == Peeked("ssh", {"ssh.software": software})


@pytest.mark.parametrize(
    "line", [b"SSH-2.0-\r\n", b"SSH-2.0\r\n", b"SSH-x-y\r\n", b"SSH-2.0-\xff\r\n", b"SSH-2.0-" + b"a" * 247]
)
def test_malformed(line: bytes) -> None:
    assert peek(line, final=False) is UNKNOWN


def test_half_a_line_is_ssh_in_the_end() -> None:
    assert peek(b"SSH-2.0-Open", final=False) is None
    assert peek(b"SSH-2.0-Open", final=True) == Peeked("ssh", {})
    assert peek(b"SSH-2.0-" + b"a" * 246, final=False) is None
