"""nginx's choice of server and location, shares and lists; whole configurations are in samples."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appswitch.cli.imports import nginx
from appswitch.cli.imports.documents import Names, document
from appswitch.cli.imports.nginx_upstream import shared
from appswitch.cli.imports.proxy import FIRST_REQUEST, Pool
from appswitch.cli.imports.report import Report
from appswitch.resources import BackendSpec, matches


def specs(text: str) -> tuple[list[dict[str, Any]], list[str]]:
    report = Report()
    found = nginx.resources(text, "x", Names(), report)
    why = [f"{one.where}: {one.what}: {one.why}" for one in report.left_out if one.why != FIRST_REQUEST]
    return [document(one)["spec"] for one in found], why


def chosen(spec: dict[str, Any], attributes: dict[str, str]) -> str:
    """The backend of a request, as `appswitch.resources.L7Route` tells it."""
    for route in spec.get("routes", ()):
        if all(any(matches(one, attributes.get(name, "")) for one in some) for name, some in route["match"].items()):
            return str(route["backends"][0]["external"])
    return str(spec["backends"][0]["external"]) if "backends" in spec else ""


SERVERS = """
server { listen 10.1.0.1:80; server_name one.example.com;
  location / { proxy_pass http://10.0.0.1; }
  location /a { proxy_pass http://10.0.0.2; }
  location /a/b { proxy_pass http://10.0.0.3; }
  location = /a/b/c { proxy_pass http://10.0.0.4; }
}
server { listen 10.1.0.1:80; server_name *.example.com; location / { proxy_pass http://10.0.0.5; } }
server { listen 10.1.0.1:80; server_name .deep.example.com; location / { proxy_pass http://10.0.0.6; } }
server { listen 10.1.0.1:80; server_name exact.deep.example.com www.*; location / { proxy_pass http://10.0.0.7; } }
"""


@pytest.mark.parametrize(
    ("host", "path", "backend"),
    [
        ("one.example.com", "/", 1),
        ("nobody.org", "/", 1),
        ("one.example.com", "/a", 2),
        ("nobody.org", "/ax", 2),
        ("one.example.com", "/a/b", 3),
        ("one.example.com", "/a/b/c", 4),
        ("one.example.com", "/a/b/cd", 3),
        ("two.example.com", "/a/b/c", 5),
        ("deep.example.com", "/", 6),
        ("x.deep.example.com", "/", 6),
        ("exact.deep.example.com", "/a", 7),
        ("www.org", "/", 7),
        ("www.example.com", "/", 5),
    ],
)
def test_server_and_location(host: str, path: str, backend: int) -> None:
    """https://nginx.org/en/docs/http/server_names.html: exact, the longest wildcard in front, the longest behind."""
    (spec,), left = specs(SERVERS)
    assert chosen(spec, {"http.host": host, "http.path": path}) == f"10.0.0.{backend}:80"
    assert left == []


@given(
    st.lists(st.tuples(st.integers(1, 99), st.lists(st.integers(1, 9), min_size=1, max_size=3)), min_size=1, max_size=4)
)
def test_shares_of_pools(parts: list[tuple[int, list[int]]]) -> None:
    total = sum(share for share, _ in parts)
    pools = [
        (Fraction(share, total), Pool(tuple(BackendSpec(external=f"{n}.{m}", weight=w) for m, w in enumerate(weights))))
        for n, (share, weights) in enumerate(parts)
    ]
    found = shared(pools)
    whole = sum(one.weight for one in found)
    wanted = [
        share * Fraction(one.weight, sum(two.weight for two in pool.backends))
        for share, pool in pools
        for one in pool.backends
    ]
    assert all(
        abs(Fraction(one.weight, whole) - exact) < Fraction(1, 1000) for one, exact in zip(found, wanted, strict=True)
    )
    assert all(0 < one.weight <= 65535 for one in found)


def test_split_clients_by_the_clients_address_stays_with_it() -> None:
    text = """
    upstream a { server 10.0.0.1:80; }
    upstream b { server 10.0.0.2:80; }
    split_clients "${remote_addr}x" $v { 10% a; * b; }
    server { listen 10.1.0.1:80; location / { proxy_pass http://$v; } }
    """
    (spec,), _ = specs(text)
    assert spec["lbType"] == "RingHash"
    assert [one.get("weight", 1) for one in spec["backends"]] == [1, 9]
    (spec,), _ = specs(text.replace("${remote_addr}x", "$request_id"))
    assert spec["lbType"] == "Weighted"


LIST = "allow 10.0.0.0/8; deny all;"


def policies(text: str) -> tuple[list[dict[str, Any]], list[str]]:
    found, left = specs(text)
    return [one for one in found if "action" in one], left


def test_a_list_of_the_only_server_closes_the_vservice() -> None:
    (found,), left = policies(f"server {{ listen 10.1.0.1:80; {LIST} location / {{ proxy_pass http://10.0.0.1; }} }}")
    assert (found["action"], found["from"]) == ("allow", [{"networks": ["10.0.0.0/8"]}])
    assert left == []


def test_a_list_of_http_is_inherited_by_who_has_none() -> None:
    found, _ = policies(
        f"http {{ {LIST} server {{ listen 10.1.0.1:80; location / {{ proxy_pass http://10.0.0.1; }} }}"
        " server { listen 10.1.0.2:80; deny 10.6.0.0/16; location / { proxy_pass http://10.0.0.1; } } }"
    )
    assert [one["from"] for one in found] == [[{"networks": ["10.0.0.0/8"]}], [{"networks": ["10.6.0.0/16"]}]]


def test_a_list_of_one_location_denies_there_alone() -> None:
    (found,), left = policies(
        f"server {{ listen 10.1.0.1:80; location / {{ proxy_pass http://10.0.0.1; }}"
        f" location /x {{ {LIST} proxy_pass http://10.0.0.1; }} }}"
    )
    assert (found["action"], found["l7"]) == ("deny", [{"http.path": ["/x*"]}])
    assert "10.0.0.0/8" not in found["from"][0]["networks"]
    assert left == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            f"location /x {{ {LIST} proxy_pass http://10.0.0.1; }} location /x/y {{ proxy_pass http://10.0.0.1; }}",
            "other locations are within it",
        ),
        (f"{LIST} location /x {{ allow all; proxy_pass http://10.0.0.1; }}", "lists of their own"),
        (f"location ~ x {{ {LIST} proxy_pass http://10.0.0.1; }}", "no regular expressions"),
        ("deny web.example.com;", "not looked up"),
    ],
)
def test_lists_that_no_policy_is(text: str, why: str) -> None:
    found, left = policies(f"server {{ listen 10.1.0.1:80; location / {{ proxy_pass http://10.0.0.9; }} {text} }}")
    assert found == []
    assert any(why in one for one in left), left


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("https://10.0.0.1", "TLS is not ended"),
        ("http://10.0.0.1/other/", "paths are not changed"),
        ("http://web.example.com", "not looked up"),
        ("http://unix:/run/x.sock", "no Unix socket"),
        ("http://$backend", "known to nginx alone"),
        ("ftp://10.0.0.1", "there is no ftp"),
        ("http://0.0.0.0:80", "nobody can be connected to there"),
    ],
)
def test_destinations_that_no_backend_is(target: str, why: str) -> None:
    found, left = specs(f"server {{ listen 10.1.0.1:80; location / {{ proxy_pass {target}; }} }}")
    assert found == []
    assert any(why in one for one in left), left


@pytest.mark.parametrize("uri", ["", "/"])
def test_a_uri_that_changes_nothing(uri: str) -> None:
    (spec,), left = specs(f"server {{ listen 10.1.0.1:80; location / {{ proxy_pass http://10.0.0.1{uri}; }} }}")
    assert spec["backends"] == [{"external": "10.0.0.1:80"}]
    assert left == []


def test_a_map_needs_the_name_of_tls_to_be_read() -> None:
    text = """stream {
      map $ssl_preread_server_name $up {
        hostnames; *.example.com 10.0.0.2:443; a.example.com 10.0.0.1:443; default 10.0.0.3:443;
      }
      server { listen 10.1.0.1:443; ssl_preread on; proxy_pass $up; }
    }"""
    (spec,), left = specs(text)
    assert [chosen(spec, {"tls.sni": name}) for name in ("a.example.com", "b.example.com", "c.org")] == [
        "10.0.0.1:443",
        "10.0.0.2:443",
        "10.0.0.3:443",
    ]
    assert left == []
    found, left = specs(text.replace("ssl_preread on;", ""))
    assert found == []
    assert "ssl_preread is not on" in left[0]
