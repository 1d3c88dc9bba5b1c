"""Egress rules and host ports as users write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appswitch.control import reach
from appswitch.model import Egress, EgressRule, HostPort


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("FD00::/8", "fd00::/8"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("*.example.com", "*.example.com"),
        ("db", "db"),
        ("_tcp.my_bucket.example", "_tcp.my_bucket.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        (".".join(["a" * 63] * 3 + ["b" * 61]), ".".join(["a" * 63] * 3 + ["b" * 61])),
    ],
)
def test_target(text: str, canonical: str) -> None:
    assert reach.target(text) == canonical
    assert reach.target(canonical) == canonical


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.1.2.3/8", "10.0.0.0/8 is the network"),
        ("10.0.0.300", "is not a network"),
        ("10.0.0", "is not a network"),
        ("1.2.3.4a.5", "neither a network nor a DNS name"),
        ("", "neither a network nor a DNS name"),
        (".", "is not a network"),
        ("*", "that is the default of egress"),
        ("*.", "that is the default of egress"),
        ("a.*.example", "neither a network nor a DNS name"),
        ("**.example", "neither a network nor a DNS name"),
        ("a..b", "neither a network nor a DNS name"),
        ("-a.example", "neither a network nor a DNS name"),
        ("a b", "neither a network nor a DNS name"),
        ("a" * 64, "neither a network nor a DNS name"),
        (".".join(["a" * 63] * 4), "neither a network nor a DNS name"),
        ("b\xfccher.example", "in ASCII"),
        ("http://example.com", "has no prefix length behind its slash"),
        ("example.com:443", "is not a network"),
    ],
)
def test_not_a_target(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("*", r"\*")):
        reach.target(text)


@given(st.text())
def test_whatever_is_written(text: str) -> None:
    for parse in (reach.target, reach.host_port):
        try:
            parse(text)
        except ValueError as err:
            assert str(err)  # noqa: PT017 - any other exception is the failure


def test_egress() -> None:
    made = reach.egress("deny", ["10.0.0.0/8", "*.example.com", "10.0.0.0/8"], ["10.1.0.0/16"], "ECONNREFUSED")
    assert made == Egress(
        default="deny",
        error="ECONNREFUSED",
        rules=(
            EgressRule(allow=False, network="10.1.0.0/16"),
            EgressRule(allow=True, network="10.0.0.0/8"),
            EgressRule(allow=True, name="*.example.com"),
        ),
    )
    assert reach.egress("allow", [], [], "EACCES") == Egress()


def test_bad_egress() -> None:
    with pytest.raises(ValueError, match=r"10.0.0.0/8 is both allowed and denied"):
        reach.egress("deny", ["10.0.0.0/8"], ["10.0.0.0/8"], "EACCES")
    numbers = [f"10.0.0.{number}" for number in range(129)]
    with pytest.raises(ValueError, match="258 egress rules are too many: at most 256"):
        reach.egress("deny", numbers, [f"{one}/32".replace("10.", "11.") for one in numbers], "EACCES")


@pytest.mark.parametrize(
    ("text", "made"), [("5432", HostPort(5432, 5432)), ("1:65535", HostPort(1, 65535)), ("80:8080", HostPort(80, 8080))]
)
def test_host_port(text: str, made: HostPort) -> None:
    assert reach.host_port(text) == made
    assert reach.host_port(str(made)) == made


@pytest.mark.parametrize(
    "text", ["", "0", "65536", "80:0", "0:80", "a", "80:", ":80", "1:2:3", "80/tcp", " 80", "\u0668"]
)
def test_not_a_host_port(text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at below
        reach.host_port(text)
    assert str(caught.value).startswith(repr(text))


def test_host_ports() -> None:
    assert reach.host_ports(["80", "80:80", "81:80"]) == (HostPort(80, 80), HostPort(81, 80))
    with pytest.raises(ValueError, match="the app's port 80 leads to 8080 and to 8081"):
        reach.host_ports(["80:8080", "80:8081"])
    with pytest.raises(ValueError, match="257 host ports are too many"):
        reach.host_ports([str(port) for port in range(1, 258)])
