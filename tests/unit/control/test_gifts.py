"""Descriptors that nobody asked for are refused, or do not hold anybody up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from harness.lingering import LINGERING

CODE = f"""
import os, sys
from appswitch.control import gifts
{LINGERING}
listener, one = lingering()
door = socket.socket(socket.AF_UNIX)
door.bind(sys.argv[2])
door.listen()
if sys.argv[1] == "refuse" and not gifts.refuse(door):
    print("not here", flush=True)
    os._exit(0)
if sys.argv[1] == "wait":
    gifts.wait_for_none()
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[2])
server, _ = door.accept()
try:
    socket.send_fds(client, [b"x"], [one.fileno()])
except PermissionError:
    print("refused", flush=True)
    os._exit(0)
one.close()
print("got", server.recv(1), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(("how", "said"), [("refuse", ("refused", "not here")), ("wait", ("got b'x'",))])
def test_gifts(tmp_path: Path, how: str, said: tuple[str, ...]) -> None:
    """Its owner gave it ten minutes."""
    words = [sys.executable, "-c", CODE, how, str(tmp_path / "door")]
    told = subprocess.run(words, check=True, capture_output=True, text=True, timeout=20).stdout
    assert told.strip() in said
