"""Name servers as glibc reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from appswitch.cli.resolvconf import nameservers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nameserver 10.0.0.2\nsearch example.com\nnameserver\tfd00::53\n", ["10.0.0.2", "fd00::53"]),
        ("nameserver fe80::1%eth0\n", ["fe80::1"]),
        ("nameserver 10.0.0.2 # ours\n", ["10.0.0.2"]),
        ("".join(f"nameserver 10.0.0.{number}\n" for number in range(1, 6)), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
        ("# nameserver 10.0.0.2\n; nameserver 10.0.0.3\n nameserver 10.0.0.4\n", ["127.0.0.1"]),
        ("nameserver\nnameservers 10.0.0.2\nnameserver dns.example\nnameserver 10.0.0.300\n", ["127.0.0.1"]),
        ("", ["127.0.0.1"]),
    ],
    ids=["two", "scope", "comment", "five", "not lines of ours", "not addresses", "empty"],
)
def test_nameservers(tmp_path: Path, text: str, expected: list[str]) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(text)
    assert nameservers(str(path)) == expected


def test_what_cannot_be_read(tmp_path: Path) -> None:
    assert nameservers(str(tmp_path / "none")) == nameservers(str(tmp_path)) == ["127.0.0.1"]
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\nnameserver 10.0.0.2\n")
    assert nameservers(str(tmp_path / "bytes")) == ["10.0.0.2"]
