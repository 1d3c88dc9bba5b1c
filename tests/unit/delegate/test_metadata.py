"""Our TLV: what is encoded is decoded again; what clients make too long is left away, and nothing breaks."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.delegate import strategies as some
from tests.unit.delegate.vectors import FULL, SMALL

from appswitch.delegate import metadata, proxyprotocol, tlv
from appswitch.delegate.errors import MalformedError, VersionError
from appswitch.delegate.metadata import App, Metadata, Sub
from appswitch.delegate.proxyprotocol import Transport, Type
from appswitch.delegate.tlv import Tlv


def with_value(value: bytes) -> bytes:
    """SMALL's header with another value of our TLV."""
    header = proxyprotocol.decode(metadata.encode(SMALL))
    return proxyprotocol.encode(header._replace(tlvs=(Tlv(Type.APPSWITCH, value),)))


def value_of(known: Metadata) -> bytes:
    value = proxyprotocol.decode(metadata.encode(known)).value(Type.APPSWITCH)
    assert value is not None
    return value


@given(some.metadata)
def test_round_trip(known: Metadata) -> None:
    assert metadata.decode(metadata.encode(known)) == known


@given(some.metadata, st.data())
def test_truncations(known: Metadata, draw: st.DataObject) -> None:
    data = metadata.encode(known)
    with pytest.raises(MalformedError):
        metadata.decode(data[: draw.draw(st.integers(0, len(data) - 1))])
    value = value_of(known)
    with contextlib.suppress(MalformedError):  # between two sub-TLVs it is a value
        metadata.decode(with_value(value[: draw.draw(st.integers(0, len(value) - 1))]))


@given(some.metadata, st.data())
def test_mutations(known: Metadata, draw: st.DataObject) -> None:
    data = bytearray(metadata.encode(known))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedError):
        again = metadata.decode(bytes(data))
        assert metadata.decode(metadata.encode(again)) == again


@given(st.lists(st.builds(Tlv, st.sampled_from(list(Sub)) | st.integers(0, 255), st.binary(max_size=20)), max_size=20))
def test_random_sub_tlvs(tlvs: list[Tlv]) -> None:
    with contextlib.suppress(MalformedError):
        metadata.decode(with_value(b"AX\1" + tlv.join(tlvs)))


def test_unknown_sub_tlvs_are_ignored() -> None:
    later = value_of(FULL) + tlv.pack(0x77, b"of a later release") + tlv.pack(0x77, b"twice")
    assert metadata.decode(with_value(later)) == dataclasses.replace(
        FULL, source=SMALL.source, destination=SMALL.destination
    )


def test_the_order_means_nothing() -> None:
    parts = list(tlv.split(value_of(SMALL)[3:], 99))
    assert metadata.decode(with_value(b"AX\1" + tlv.join(reversed(parts)))) == SMALL


@pytest.mark.parametrize("one", [Sub.CONNECTION, Sub.DIRECTION, Sub.CLIENT, Sub.VSERVICE, Sub.PEEKED, Sub.CLIENT_LABEL])
def test_one_of_ours_twice(one: Sub) -> None:
    parts = list(tlv.split(value_of(FULL)[3:], 99))
    again = [part for part in parts if part.type == one]
    with pytest.raises(MalformedError, match="twice"):
        metadata.decode(with_value(b"AX\1" + tlv.join(parts + again)))


def test_another_version() -> None:
    with pytest.raises(VersionError):
        metadata.decode(with_value(b"AX\2"))


def test_datagrams_are_never_handed_over() -> None:
    header = proxyprotocol.decode(metadata.encode(SMALL))._replace(transport=Transport.DGRAM)
    with pytest.raises(MalformedError, match="TCP"):
        metadata.from_header(header)


def test_what_other_programs_read() -> None:
    header = proxyprotocol.decode(metadata.encode(FULL))
    assert (header.source, header.destination) == (FULL.source, FULL.destination)
    assert header.value(Type.UNIQUE_ID) == FULL.connection.to_bytes(8, "big")
    assert header.value(Type.AUTHORITY) == b"web.test"


def test_long_attributes_do_not_push_out_short_ones() -> None:
    attributes = {"http.header.a": "a" * 40000, "protocol": "http", "http.header.b": "b" * 40000, "http.path": "/"}
    labels = {f"label-{number}": "x" * 60 for number in range(100)}
    known = dataclasses.replace(SMALL, attributes=attributes, client=App(1, "a", labels), peeked=b"x" * 20000)
    decoded = metadata.decode(metadata.encode(known))
    assert decoded.truncated
    assert decoded.attributes == {"protocol": "http", "http.path": "/"}
    assert decoded.client == known.client
    assert decoded.peeked == known.peeked[: metadata.MAX_PEEKED]


def test_many_attributes() -> None:
    known = dataclasses.replace(SMALL, attributes={f"http.header.{number}": "" for number in range(5000)})
    decoded = metadata.decode(metadata.encode(known))
    assert decoded.truncated
    assert 500 < len(decoded.attributes) <= metadata.MAX_ITEMS


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=10).map(lambda text: text * 9000), max_size=6))
def test_encodes_whatever_clients_send(attributes: dict[str, str]) -> None:
    data = metadata.encode(dataclasses.replace(SMALL, attributes=attributes))
    assert len(data) <= proxyprotocol.MAX_SIZE
    assert metadata.decode(data).attributes.items() <= attributes.items()


def test_text_that_is_none() -> None:
    decoded = metadata.decode(metadata.encode(dataclasses.replace(SMALL, attributes={"a": "x\udcff"})))
    assert decoded.attributes == {"a": "x?"}


@pytest.mark.parametrize(
    "beyond",
    [{"connection": 2**64}, {"connection": -1}, {"proxy": "x" * 256}, {"chain": ("x",) * 33}, {"client": App(2**32)}],
)
def test_beyond_the_bounds(beyond: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"bytes|proxies"):
        metadata.encode(dataclasses.replace(SMALL, **beyond))  # type: ignore[arg-type]


def test_protocol() -> None:
    assert FULL.protocol == "http"
    assert SMALL.protocol == ""
