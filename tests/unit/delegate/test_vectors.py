"""The bytes that are promised to programs in other languages."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.delegate import vectors
from tests.unit.delegate.vectors import Vector

from appswitch.delegate import messages, metadata, proxyprotocol
from appswitch.delegate.errors import MalformedError
from appswitch.delegate.proxyprotocol import Type

AGAIN = "after a change that is meant: python -m tests.unit.delegate.vectors"
VECTORS = list(vectors.all_vectors())
MALFORMED = json.loads((vectors.HERE / "malformed.json").read_text())


def descriptors(packet: bytes) -> int:
    return int(packet.startswith((messages.MAGIC + b"\2\6", messages.MAGIC + b"\2\x08")))


def to_daemon(packet: bytes) -> Any:
    return messages.decode_to_daemon(packet, descriptors(packet))


def from_daemon(packet: bytes) -> Any:
    return messages.decode_from_daemon(packet, descriptors(packet))


DECODERS: dict[str, Callable[[bytes], Any]] = {
    "header": proxyprotocol.decode,
    "metadata": metadata.decode,
    "to-daemon": to_daemon,
    "from-daemon": from_daemon,
}


@pytest.mark.parametrize("file", ["headers.json", "metadata.json", "messages.json"])
def test_files_hold_what_is_encoded(file: str) -> None:
    assert (vectors.HERE / file).read_text() == vectors.files()[file], AGAIN


def test_the_page_shows_them() -> None:
    assert vectors.page_section() == vectors.section(), AGAIN


@pytest.mark.parametrize("vector", VECTORS, ids=lambda one: f"{one.family}-{one.name}")
def test_decoded_again(vector: Vector) -> None:
    if vector.family == "headers":
        header = proxyprotocol.decode(vector.encoded)
        assert header._replace(tlvs=tuple(one for one in header.tlvs if one.type != Type.CRC32C)) == vector.value
    elif vector.family == "metadata":
        assert metadata.decode(vector.encoded) == vector.value
    else:
        decode = to_daemon if isinstance(vector.value, messages.ToDaemon) else from_daemon
        assert decode(vector.encoded) == vector.value


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: f"{case['as']}: {case['why']}")
def test_malformed(case: dict[str, str]) -> None:
    with pytest.raises(MalformedError):
        DECODERS[case["as"]](bytes.fromhex(case["hex"]))
