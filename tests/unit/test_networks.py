"""Networks as users write them, good and bad."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appswitch import networks
from appswitch.networks import Network


def several(*texts: str) -> tuple[Network, ...]:
    return tuple(map(ipaddress.ip_network, texts))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("FD00::/8", "fd00::/8"),
        ("2001:DB8::1", "2001:db8::1/128"),
        ("::/0", "::/0"),
    ],
)
def test_network(text: str, canonical: str) -> None:
    assert str(networks.parse_network(text)) == canonical


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.1.2.3/8", "has bits set behind its prefix: 10.0.0.0/8 is the network, 10.1.2.3 the address"),
        ("fd00::1/64", "has bits set behind its prefix: fd00::/64 is the network"),
        ("10.0.0.0/33", "is not a network"),
        ("10.0.0/8", "is not a network"),
        ("fe80::%eth0/64", "is valid on one link only"),
        ("", "is not a network"),
        ("example.com", "is not a network"),
        ("10.0.0.0/", "has no prefix length behind its slash"),
        ("10.0.0.0/255.0.0.0", "has no prefix length behind its slash"),
        ("10.0.0.0/-1", "has no prefix length behind its slash"),
        ("10.0.0.0/\u0668", "has no prefix length behind its slash"),
        ("::ffff:10.0.0.0/104", "is IPv4 written as IPv6: give 10.0.0.0/8"),
    ],
)
def test_not_a_network(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at below
        networks.parse_network(text)
    assert str(caught.value).startswith(f"{text!r} {why}")


@given(st.text())
def test_whatever_is_written(text: str) -> None:
    for parse in (networks.parse_network, networks.parse_pools, networks.parse_user_networks):
        try:
            parse(text)
        except ValueError as err:
            assert str(err)  # noqa: PT017 - any other exception is the failure


def test_pools() -> None:
    assert networks.parse_pools("10.1.0.0/16, fd00::/64,10.2.0.0/27") == several(
        "10.1.0.0/16", "fd00::/64", "10.2.0.0/27"
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.0.0.0/8,10.1.0.0/16", "10.1.0.0/16 overlaps 10.0.0.0/8, another pool"),
        ("10.1.0.0/16,10.1.0.0/16", "10.1.0.0/16 overlaps 10.1.0.0/16, another pool"),
        ("192.168.0.0/16", "192.168.0.0/16 overlaps 192.168.7.0/24, a network of this host"),
        ("fd00:1::/64", "fd00:1::/64 overlaps fd00::/16, a network of this host"),
        ("10.1.2.3/16", "has bits set behind its prefix"),
        ("10.1.0.0/28", "'10.1.0.0/28' is too small for a pool: at most /27, which is 32 addresses"),
        ("10.1.0.0", "is too small for a pool"),
        ("fd01::/124", "is too small for a pool: at most /123"),
        ("127.1.0.0/16", "overlaps 127.0.0.0/8, where no app can be"),
        ("0.0.0.0/0", "overlaps 0.0.0.0/8, where no app can be"),
        ("239.0.0.0/16", "overlaps 224.0.0.0/3, where no app can be"),
        ("fe80::/64", "where no app can be"),
        ("", "is not a list of networks"),
        ("10.1.0.0/16,", "is not a list of networks"),
    ],
)
def test_bad_pools(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        networks.parse_pools(text, several("192.168.7.0/24", "fd00::/16"))


def test_pools_are_chosen_beside_the_hosts_networks() -> None:
    assert networks.choose_pools(()) == several("10.250.0.0/16", "fd61:7070::/64")
    taken = several("10.0.0.0/8", "172.30.5.0/24", "fd61:7070::5/128")
    assert networks.choose_pools(taken) == several("100.115.0.0/16", "fd61:7070:0:1::/64")
    assert networks.choose_pools((), (4,)) == several("10.250.0.0/16")
    assert networks.choose_pools(several("fc00::/7")) == several("10.250.0.0/16")
    with pytest.raises(ValueError, match="name one with --pools"):
        networks.choose_pools(several("0.0.0.0/0"))


def test_every_candidate_can_be_a_pool() -> None:
    for candidates in networks.CANDIDATES.values():
        assert list(map(str, networks.parse_pools(",".join(candidates)))) == list(candidates)


def test_user_networks() -> None:
    assert networks.parse_user_networks("10.0.0.0/8,10.0.0.0/8,10.1.0.0/16") == several("10.0.0.0/8", "10.1.0.0/16")
    assert len(networks.parse_user_networks(networks.DEFAULT_USER_NETWORKS)) == 10
