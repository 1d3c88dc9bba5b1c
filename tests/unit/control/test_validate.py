"""Words of users, good and bad."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appswitch.control import validate
from appswitch.model import Expose


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("8.8.8.8", "8.8.8.8"),
        ("240.0.0.1", "240.0.0.1"),
        ("169.254.1.1", "169.254.1.1"),
        ("fd00::1", "fd00::1"),
        ("FD00:0:0:0:0:0:0:1", "fd00::1"),
        ("2001:db8::192.0.2.1", "2001:db8::c000:201"),
    ],
)
def test_ip(text: str, canonical: str) -> None:
    assert validate.ip(text) == canonical


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not an IP address: give an IPv4 address such as 10.1.2.3 or an IPv6 address such as fd00::1"),
        ("10.1.2.300", "is not an IP address"),
        ("10.1.2", "is not an IP address"),
        ("010.1.2.3", "is not an IP address"),
        ("0x0a010203", "is not an IP address"),
        ("167772161", "is not an IP address"),
        ("localhost", "is not an IP address"),
        ("[fd00::1]", "is not an IP address"),
        ("10.1.2.3:80", "is not an IP address"),
        ("10.1.2.3 ", "is not an IP address"),
        ("\u0661\u0660.1.2.3", "is not an IP address"),
        ("10.0.0.0/8", "has a prefix length"),
        ("0.0.0.0", "is no address at all"),
        ("::", "is no address at all"),
        ("127.0.0.1", "is a loopback address, which means the app itself"),
        ("127.9.9.9", "is a loopback address"),
        ("::1", "is a loopback address"),
        ("224.0.0.1", "is an address of many"),
        ("255.255.255.255", "is an address of many"),
        ("ff02::1", "is an address of many"),
        ("::ffff:10.1.2.3", "is an IPv4 address written as IPv6: give 10.1.2.3"),
        ("fe80::1", "is valid on one link only"),
        ("fd00::1%eth0", "is valid on one link only"),
    ],
)
def test_not_an_ip(text: str, why: str) -> None:
    with pytest.raises(ValueError, match="^" + repr(text).replace("[", r"\[").replace(".", r"\.")) as caught:
        validate.ip(text)
    assert why in str(caught.value)


@given(st.ip_addresses())
def test_any_address_is_taken_as_it_is_or_refused(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    try:
        assert ipaddress.ip_address(validate.ip(str(address))) == address
    except ValueError as err:
        assert str(address) in str(err)  # noqa: PT017 - either is right, a crash is not


@given(st.text())
def test_no_text_crashes(text: str) -> None:
    for check in (validate.ip, validate.name, validate.expose, lambda one: validate.labels({one: one})):
        try:
            check(text)
        except ValueError as err:
            assert str(err)  # noqa: PT017


def test_ips_one_of_each_family() -> None:
    assert validate.ips(["fd00::1", "10.1.2.3"]) == ("10.1.2.3", "fd00::1")
    assert validate.ips(["fd00::1", "FD00::1"]) == ("fd00::1",)
    assert validate.ips([]) == ()
    with pytest.raises(ValueError, match="at most one IPv4 address"):
        validate.ips(["10.1.2.3", "10.1.2.4"])


@pytest.mark.parametrize("text", ["a", "web", "Web-1", "1a", "0-0", "a" * 63])
def test_name(text: str) -> None:
    assert validate.name(text) == text.lower()


@pytest.mark.parametrize("text", ["", "-a", "a-", "a.b", "a_b", "a b", "ä", "\u212a", "a" * 64, "a\n"])
def test_not_a_name(text: str) -> None:
    with pytest.raises(ValueError, match="1 to 63 letters, digits and hyphens"):
        validate.name(text)


def test_labels() -> None:
    good = {"zone": "a", "app.kubernetes.io/name": "web", "empty": "", "x_y.z-1": "A.b_c-d"}
    assert validate.labels(good) == good


@pytest.mark.parametrize(
    ("key", "value"), [("", "x"), ("-a", "x"), ("a b", "x"), ("a=b", "x"), ("a", "b c"), ("a", "b,"), ("a", "x" * 64)]
)
def test_not_a_label(key: str, value: str) -> None:
    with pytest.raises(ValueError, match="is not a label's"):
        validate.labels({key: value})


def test_not_so_many_labels() -> None:
    with pytest.raises(ValueError, match="65 labels are too many"):
        validate.labels({f"k{number}": "v" for number in range(65)})


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("80:8080", Expose(80, 8080)),
        ("1:65535", Expose(1, 65535)),
        ("80", Expose(80, 0)),
        ("80/udp", Expose(80, 0, protocol="udp")),
        ("80:0", Expose(80, 0)),
        ("80:127.0.0.1:0/tcp", Expose(80, 0, "127.0.0.1", "tcp")),
        ("80:0.0.0.0:8080", Expose(80, 8080, "0.0.0.0")),
        ("80:192.0.2.1:8080", Expose(80, 8080, "192.0.2.1")),
        ("80:127.0.0.1:8080", Expose(80, 8080, "127.0.0.1")),
        ("80:[::]:8080", Expose(80, 8080, "::")),
        ("80:[2001:DB8::1]:8080", Expose(80, 8080, "2001:db8::1")),
        ("80:8080/tcp", Expose(80, 8080, protocol="tcp")),
        ("53:[::1]:5353/udp", Expose(53, 5353, "::1", "udp")),
    ],
)
def test_expose(text: str, made: Expose) -> None:
    assert validate.expose(text) == made
    assert validate.expose(str(made)) == made


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "80:", ":80", "a:80", "80:b", "0:80", "0", "80:/udp", "80:127.0.0.1:",
        "65536:80", "80:65536", "80:999999", "-1:80",
        "80:8080:90", "80:host:8080", "80:::1:8080", "80:[10.0.0.1]:8080", "80:224.0.0.1:8080", "80:[::1:8080",
        "80:8080/sctp", "80:8080/", "80:8080/TCP", "80/tcp:8080", " 80:8080", "\u0668\u0660:8080", "80:8080\n",
    ],
)  # fmt: skip
def test_not_to_expose(text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at below
        validate.expose(text)
    assert str(caught.value).startswith(repr(text))
    assert "port" in str(caught.value).lower()


def test_one_port_of_the_host_leads_to_one_port() -> None:
    assert validate.exposes(["80:8080", "80:8080", "81:8081"]) == (Expose(80, 8080), Expose(81, 8081))
    with pytest.raises(ValueError, match="the host's port 8080 cannot lead to two ports"):
        validate.exposes(["80:8080", "81:8080"])
    with pytest.raises(ValueError, match=r"cannot lead to two ports: 80:8080 has it"):
        validate.exposes(["80:8080", "81:127.0.0.1:8080/udp"])
    with pytest.raises(ValueError, match="cannot lead to two ports"):
        validate.exposes(["80:[::1]:8080", "81:[::]:8080"])
    with pytest.raises(ValueError, match="cannot lead to two ports"):
        validate.exposes(["80:8080", "81:[::]:8080"])
    with pytest.raises(ValueError, match="name each address and protocol once"):
        validate.exposes(["80:8080/tcp", "80:127.0.0.1:8080"])
    with pytest.raises(ValueError, match="257 exposed ports are too many"):
        validate.exposes([f"80:{port}" for port in range(1, 258)])


@pytest.mark.parametrize(
    ("texts", "left"),
    [
        (["80:8080/tcp", "81:8080/udp"], ["80:8080/tcp", "81:8080/udp"]),
        (["80:127.0.0.1:8080", "81:192.0.2.1:8080"], ["80:127.0.0.1:8080", "81:192.0.2.1:8080"]),
        (["80:0.0.0.0:8080", "81:[::]:8080"], ["80:0.0.0.0:8080", "81:[::]:8080"]),
        (["80:8080", "80:127.0.0.1:8080/tcp"], ["80:8080"]),
        (["80:0.0.0.0:8080", "80:[::]:8080/udp", "80:8080"], ["80:8080"]),
        (["80:127.0.0.1:8080/tcp", "80:192.0.2.1:8080", "80:8080"], ["80:8080"]),
        (["80:8080/udp", "80:8080"], ["80:8080"]),
        (["80", "80:0", "81", "80:8080", "80:0/udp"], ["80:0", "81:0", "80:8080"]),
    ],
)
def test_what_shares_a_port_of_the_host(texts: list[str], left: list[str]) -> None:
    assert [str(one) for one in validate.exposes(texts)] == left


@pytest.mark.parametrize("text", ["0", "123", "0x7f000001", "0X10", "localhost", "LocalHost"])
def test_names_that_mean_something_else(text: str) -> None:
    with pytest.raises(ValueError, match="give a"):
        validate.name(text)


@pytest.mark.parametrize("text", ["a", "eth0", "fifteen-letters", "w\xe4n0", "a.b"])
def test_interface(text: str) -> None:
    assert validate.interface(text) == text


@pytest.mark.parametrize(
    "text", ["", "sixteen-letters!", "a/b", "a b", "a:1", ".", "..", "lo", "a\n", "a%d", "\xe4" * 8]
)
def test_not_an_interface(text: str) -> None:
    with pytest.raises(ValueError, match="is no name for an interface"):
        validate.interface(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("127.0.0.53", "127.0.0.53"), ("FE80::1", "fe80::1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("0.0.0.0", "127.0.0.1"),
     ("::", "::1")],
)  # fmt: skip
def test_nameserver(text: str, canonical: str) -> None:
    assert validate.nameserver(text) == canonical


@pytest.mark.parametrize(
    "text", ["", "dns", "10.0.0.300", "fe80::1%eth0", "224.0.0.251", "ff02::fb", "255.255.255.255"]
)
def test_not_a_nameserver(text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at below
        validate.nameserver(text)
    assert str(caught.value).startswith(repr(text))
