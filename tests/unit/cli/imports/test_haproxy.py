"""HAProxy's conditions and lists; whole configurations are in samples."""

from __future__ import annotations

import re
from typing import Any

import pytest

from appswitch.cli.imports import haproxy, haproxy_acl, haproxy_file, ranges
from appswitch.cli.imports.documents import Names, document
from appswitch.cli.imports.haproxy_acl import Case, ConditionError, cases
from appswitch.cli.imports.report import InputError, Report

ACLS = {
    "api": [["path_beg", "/api", "/v2"]],
    "both": [["path_beg", "/a"], ["path_end", ".b"]],
    "mixed": [["path", "/a"], ["method", "PUT"]],
    "lan": [["src", "10.0.0.0/8", "fd00::/8"]],
}
EVERYBODY = ranges.ADDRESSES


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("if api", [{"http.path": ("/api*", "/v2*")}]),
        ("if both", [{"http.path": ("/a*", "*.b")}]),
        ("if mixed", [{"http.path": ("/a",)}, {"http.method": ("PUT",)}]),
        ("if api METH_POST", [{"http.path": ("/api*", "/v2*"), "http.method": ("POST",)}]),
        ("if METH_GET", [{"http.method": ("GET", "HEAD")}]),
        (
            "if api || { path /x } or { path /y }",
            [{"http.path": ("/api*", "/v2*")}, {"http.path": ("/x",)}, {"http.path": ("/y",)}],
        ),
        ("if { hdr(host) -i WWW.Example.com }", [{"http.host": ("www.example.com",)}]),
        ("if { req.hdr(X-Beta) yes }", [{"http.header.x-beta": ("yes",)}]),
        ("if { hdr(x-beta) -m found }", [{"http.header.x-beta": ("*",)}]),
        ("if { hdr_dom(host) shop }", [{"http.host": ("shop", "shop.*", "*.shop", "*.shop.*")}]),
        ("if { path_dir static }", [{"http.path": ("*/static/*", "*/static")}]),
        ("if { path -m sub /x/ }", [{"http.path": ("*/x/*",)}]),
        ("if { req.ssl_sni -i a.example.com } { req.ssl_hello_type 1 }", [{"tls.sni": ("a.example.com",)}]),
        ("if TRUE", [{}]),
        ("if FALSE", []),
        ("unless TRUE", []),
        ("", [{}]),
    ],
)
def test_what_is_asked_for(condition: str, found: list[dict[str, Any]]) -> None:
    assert cases(condition.split(), ACLS) == [Case(EVERYBODY, one) for one in found]


@pytest.mark.parametrize(
    ("condition", "networks"),
    [
        ("if lan", ("10.0.0.0/8", "fd00::/8")),
        ("if { src 10.0.0.0/24 } !{ src 10.0.0.128/25 }", ("10.0.0.0/25",)),
        ("unless !lan", ("10.0.0.0/8", "fd00::/8")),
        ("unless { src 0.0.0.0/1 } || { src 128.0.0.0/1 }", ("::/0",)),
    ],
)
def test_who_asks(condition: str, networks: tuple[str, ...]) -> None:
    (case,) = cases(condition.split(), ACLS)
    assert (ranges.networks(case.source), case.l7) == (networks, {})


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        ("if nosuch", "there is no acl 'nosuch'"),
        ("if !api", "cannot ask for what is not"),
        ("unless api lan", "cannot be asked for"),
        ("if api { path /x }", "two patterns at once"),
        ("if { path_reg ^/x }", "no regular expressions"),
        ("if { path -m reg ^/x }", "no regular expressions"),
        ("if { path -i /x }", "upper from lower case"),
        ("if { path /* }", "no * in it"),
        ("if { path -f /etc/paths }", "/etc/paths is not opened"),
        ("if { hdr(host) a.example.com:80 }", "without a port"),
        ("if { ssl_fc_sni a }", "TLS is not ended"),
        ("if { url_param(x) y }", "that is not looked at"),
        ("if { path,lower /x }", "that is not looked at"),
        ("if { src example.com }", "not looked up"),
        ("if { path }", "nothing that it is compared with"),
        ("if {", "does not end"),
        ("if !", "does not end"),
        ("if { }", "is empty"),
        ("if ||", "is empty"),
    ],
)
def test_what_cannot_be_asked_for(condition: str, why: str) -> None:
    with pytest.raises(ConditionError, match=re.escape(why)):
        cases(condition.split(), ACLS)


def test_alternatives_are_bounded() -> None:
    wide = {f"a{n}": [["path", "/a"], ["method", "PUT"]] for n in range(20)}
    with pytest.raises(ConditionError, match=f"more than {haproxy_acl.MAX_ALTERNATIVES}"):
        cases(["if", *wide], wide)


def specs(text: str) -> tuple[list[dict[str, Any]], list[str]]:
    report = Report()
    found = haproxy.resources(text, "x", Names(), report)
    return [document(one)["spec"] for one in found], [f"{one.where}: {one.why}" for one in report.left_out]


def test_a_list_that_lets_in_first_closes_the_rest() -> None:
    found, left = specs(
        "listen l\n bind 10.1.0.1:80\n server s 10.0.0.1:80\n"
        " tcp-request connection accept if { src 10.0.0.0/8 }\n tcp-request connection reject\n"
    )
    assert found[1] == {
        "action": "allow",
        "direction": "ingress",
        "from": [{"networks": ["10.0.0.0/8"]}],
        "to": [{"names": ["l"]}],
        "error": "ECONNREFUSED",
    }
    assert left == []


def test_a_denial_behind_what_lets_in_by_path_is_left_out() -> None:
    found, left = specs(
        "listen l\n bind 10.1.0.1:80\n server s 10.0.0.1:80\n"
        " http-request allow if { path_beg /public }\n http-request deny if { src 10.6.0.0/16 }\n"
    )
    assert len(found) == 1
    assert left == ["x:5: a denial wins, and a rule before lets in some of what this denies"]


def test_whom_a_rule_let_in_is_not_denied_by_path() -> None:
    found, _ = specs(
        "listen l\n bind 10.1.0.1:80\n server s 10.0.0.1:80\n"
        " http-request allow if { src 128.0.0.0/1 ::/0 }\n http-request deny if { path /x }\n"
    )
    assert found[1]["from"] == [{"networks": ["0.0.0.0/1"]}]
    assert found[1]["l7"] == [{"http.path": ["/x"]}]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("bind /run/x.sock", "no Unix socket"),
        ("bind 10.1.0.1:443 ssl crt x.pem", "TLS is not ended"),
        ("bind 127.0.0.1:80", "no vservice can have"),
        ("bind web.example.com:80", "not looked up"),
        ("bind 10.1.0.1:1-9999", "more than 256 ports"),
        ("bind 10.1.0.1:0", "is no port"),
    ],
)
def test_addresses_that_no_vservice_has(line: str, why: str) -> None:
    found, left = specs(f"listen l\n {line}\n server s 10.0.0.1:80\n")
    assert found == []
    assert why in left[0]


def test_quotes_comments_and_backslashes() -> None:
    (section,) = haproxy_file.sections("backend b # x\n server 'a b' \"1.2.3.4\":80 \\#c # d\n", "x")
    assert section.lines[0].words == ("server", "a b", "1.2.3.4:80", "#c")
    with pytest.raises(InputError, match="x:1: a quotation does not end"):
        haproxy_file.sections('backend "b\n', "x")


def test_defaults_are_the_last_ones_or_those_that_are_named() -> None:
    text = "defaults one\n mode tcp\ndefaults two\n mode http\nbackend a\nbackend b from one\nbackend c\n mode log\n"
    found = haproxy_file.sections(text, "x")
    assert [section.value("mode") for section in found[2:]] == ["http", "tcp", "log"]


def test_routes_beyond_those_of_a_vservice_are_told() -> None:
    rules = "".join(f" use_backend b if {{ path /{number} }}\n" for number in range(257))
    found, left = specs(
        f"frontend f\n bind 10.1.0.1:80\n{rules} default_backend d\n"
        "backend b\n server s 10.0.0.1:80\nbackend d\n server s 10.0.0.2:80\n"
    )
    assert len(found[0]["routes"]) == 256
    assert any("more than 256 routes" in line for line in left)
