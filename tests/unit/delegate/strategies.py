"""Anything that can be said in the delegation protocol."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st

from appswitch.address import Address, unmap
from appswitch.delegate.metadata import App, Metadata
from appswitch.delegate.proxyprotocol import Command, Header, Transport, Type
from appswitch.delegate.tlv import Tlv

ports = st.integers(0, 65535)
ips = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16).map(unmap)
addresses = st.builds(Address, ips, ports)
names = st.text(max_size=60)
texts = st.text(max_size=200)
connections = st.integers(0, 2**64 - 1)
counts = st.integers(0, 2**32 - 1)
labels = st.dictionaries(names, texts, max_size=5)
apps = st.builds(App, counts, names, labels)

metadata = st.builds(
    Metadata,
    connection=connections,
    direction=st.sampled_from(["client", "server"]),
    source=addresses,
    destination=addresses,
    client=st.none() | apps,
    server=st.none() | apps,
    vservice=names,
    proxy=names,
    chain=st.lists(names, max_size=5).map(tuple),
    rules=st.lists(names, max_size=5).map(tuple),
    attributes=st.dictionaries(names | st.sampled_from(["http.host", "tls.sni"]), texts, max_size=10),
    peeked=st.binary(max_size=300),
    truncated=st.booleans(),
)

# A checksum is made by the encoder, and of the others there may be one.
foreign = st.builds(Tlv, st.integers(0x31, 0xFF).filter(lambda type: type != Type.APPSWITCH), st.binary(max_size=50))
known = st.lists(
    st.builds(Tlv, st.sampled_from([Type.ALPN, Type.AUTHORITY, Type.NETNS, Type.UNIQUE_ID]), st.binary(max_size=128)),
    unique_by=lambda one: one.type,
)
tlvs = st.builds(lambda *parts: tuple(itertools.chain(*parts)), known, st.lists(foreign, max_size=5))
transports = st.sampled_from([Transport.STREAM, Transport.DGRAM])
paths = st.binary(max_size=108).map(lambda path: path.rstrip(b"\0"))
headers = st.one_of(
    st.just(Header(Command.LOCAL)),
    st.builds(Header, st.just(Command.PROXY), st.just(Transport.UNSPEC), st.none(), st.none(), tlvs),
    st.builds(Header, st.just(Command.PROXY), transports, addresses, addresses, tlvs),
    st.builds(Header, st.just(Command.PROXY), transports, paths, paths, tlvs),
)
