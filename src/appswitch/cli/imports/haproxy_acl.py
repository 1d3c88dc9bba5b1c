"""Conditions of HAProxy: acls, anonymous ones, ``if`` and ``unless``; HAProxy's configuration manual, chapter 7."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from appswitch.cli.imports import proxy, ranges
from appswitch.cli.imports.ranges import Ranges

MAX_ALTERNATIVES = 64  # of one condition


class ConditionError(Exception):
    """A condition that no resource can ask for. The text is the reason."""


class Test(NamedTuple):
    """One thing that is asked: an attribute's patterns, or the client's address."""

    attribute: str = ""  # "": about the source
    patterns: tuple[str, ...] = ()
    source: Ranges = ranges.ADDRESSES


class Case(NamedTuple):
    """All of these must hold."""

    source: Ranges
    l7: dict[str, tuple[str, ...]]


Acls = Mapping[str, Sequence[Sequence[str]]]  # name: the words of each line that declares it

ALWAYS, NEVER = Test(), Test(source=())
_CONSTANTS = {
    **dict.fromkeys(("TRUE", "always_true", "HTTP", "REQ_CONTENT", "req.proto_http", "req_proto_http"), ALWAYS),
    **dict.fromkeys(("FALSE", "always_false"), NEVER),
    "LOCALHOST": Test(source=ranges.network("127.0.0.0/8") + ranges.network("::1")),
    **{
        f"METH_{one}": Test(proxy.METHOD, (one,))
        for one in ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT", "TRACE")
    },
}
_CONSTANTS["METH_GET"] = Test(proxy.METHOD, ("GET", "HEAD"))
_FORMS: dict[str, tuple[str, ...]] = {
    "str": ("{}",),
    "beg": ("{}*",),
    "end": ("*{}",),
    "sub": ("*{}*",),
    "dir": ("*/{}/*", "*/{}"),
    "dom": ("{}", "{}.*", "*.{}", "*.{}.*"),
}
_MODES = "str|beg|end|sub|dir|dom|reg|len|found|bin|int|bool|ip"
_FETCH = re.compile(rf"(?P<name>[a-zA-Z0-9_.]+?)(?:_(?P<mode>{_MODES}))?(?:\((?P<argument>[^)]*)\))?(?P<more>,.*)?")
_ATTRIBUTES = {
    "path": proxy.PATH,
    "method": proxy.METHOD,
    "req.ssl_sni": proxy.SNI,
    "req_ssl_sni": proxy.SNI,
}
_HEADERS = ("hdr", "req.hdr", "req.fhdr", "fhdr")
_FOLDED = (proxy.HOST, proxy.SNI)  # case does not matter: RFC 3986 section 3.2.2, RFC 6066 section 3
_REASONS = {
    "ssl_fc_sni": proxy.NO_TLS,
    "ssl_fc": proxy.NO_TLS,
    "path_reg": "patterns are no regular expressions",
    "dst": "write a vservice for each address",
    "dst_port": "write a vservice for each port",
}


def cases(words: Sequence[str], acls: Acls) -> list[Case]:
    """What stands behind ``if`` or ``unless``, that word included; any of the cases. Raises ConditionError."""
    if not words:
        return [Case(ranges.ADDRESSES, {})]
    terms = [_terms(part) for part in _split(words[1:])]
    if words[0] == "unless":
        if any(len(part) != 1 for part in terms):
            raise ConditionError("what is not asked for together cannot be asked for")
        terms = [[(not part[0][0], part[0][1]) for part in terms]]
    found: list[Case] = []
    for part in terms:
        alternatives = [_alternatives(negated, term, acls) for negated, term in part]
        count = 1
        for one in alternatives:
            count *= len(one)
        if count + len(found) > MAX_ALTERNATIVES:
            raise ConditionError(f"more than {MAX_ALTERNATIVES} alternatives")
        found += [_case(tests) for tests in product(*alternatives)]
    return [case for case in found if case.source]


def _split(words: Sequence[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word in ("||", "or", "OR"):
            parts.append([])
        elif word not in ("&&", "and", "AND"):
            parts[-1].append(word)
    if not all(parts):
        raise ConditionError("a condition is empty")
    return parts


def _terms(words: Sequence[str]) -> list[tuple[bool, tuple[str, ...]]]:
    """Whether each is negated, and its words: one for a name, several for what stands between braces."""
    found: list[tuple[bool, tuple[str, ...]]] = []
    negated = False
    rest = iter(words)
    for word in rest:
        name = word.lstrip("!")
        negated ^= (len(word) - len(name)) % 2 == 1
        if name:
            found.append((negated, ("{", *_braced(rest)) if name == "{" else (name,)))
            negated = False
    if negated:
        raise ConditionError("a condition does not end")
    return found


def _braced(rest: Iterator[str]) -> Iterator[str]:
    for word in rest:
        if word == "}":
            return
        yield word
    raise ConditionError("a condition does not end")


def _alternatives(negated: bool, term: tuple[str, ...], acls: Acls) -> list[Test]:
    if term[0] == "{":
        tests = [test(term[1:])]
    elif term[0] in acls:
        tests = _together([test(words) for words in acls[term[0]]])
    elif term[0] in _CONSTANTS:
        tests = [_CONSTANTS[term[0]]]
    else:
        raise ConditionError(f"there is no acl {term[0]!r}")
    if not negated:
        return tests
    if len(tests) > 1 or tests[0].attribute:
        raise ConditionError("a pattern matches what is there, and cannot ask for what is not")
    return [Test(source=ranges.subtract(ranges.ADDRESSES, tests[0].source))]


def _together(tests: list[Test]) -> list[Test]:
    """Of an acl with several lines any may match; those that ask for the same attribute are one."""
    found: dict[str, Test] = {}
    for one in tests:
        before = found.get(one.attribute)
        if before is None:
            found[one.attribute] = one
        else:
            source = ranges.union(before.source + one.source)
            found[one.attribute] = Test(one.attribute, before.patterns + one.patterns, source)
    return list(found.values())


def _case(tests: Sequence[Test]) -> Case:
    source = ranges.ADDRESSES
    l7: dict[str, tuple[str, ...]] = {}
    for one in tests:
        if not one.attribute:
            source = ranges.intersect(source, one.source)
        elif l7.setdefault(one.attribute, one.patterns) != one.patterns:
            raise ConditionError(f"{one.attribute} would have to match two patterns at once")
    return Case(source, l7)


def test(words: Sequence[str]) -> Test:
    """``path_beg -i /api /v2``. Raises ConditionError."""
    if not words:
        raise ConditionError("a condition is empty")
    if words[0] in _CONSTANTS and len(words) == 1:
        return _CONSTANTS[words[0]]
    if words[0] in ("req.ssl_hello_type", "req_ssl_hello_type"):
        return ALWAYS  # there is no SNI in anything else
    if words[0] in _REASONS:
        raise ConditionError(f"{words[0]}: {_REASONS[words[0]]}")
    flags, values = _flags(words[1:])
    if words[0] == "src":
        return Test(source=_sources(values, flags))
    match = _FETCH.fullmatch(words[0])
    attribute = _attribute(match) if match and not match["more"] else ""
    if match is None or not attribute:
        raise ConditionError(f"{words[0]}: that is not looked at")
    return _patterns(attribute, flags.get("-m", match["mode"] or "str"), values, folded="-i" in flags)


def _attribute(match: re.Match[str]) -> str:
    argument = (match["argument"] or "").strip().lower()
    if match["name"] in _HEADERS and re.fullmatch("[a-z0-9][-a-z0-9_]*", argument):
        return proxy.HOST if argument == "host" else proxy.HEADER + argument
    return "" if argument else _ATTRIBUTES.get(match["name"], "")


def _flags(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    flags: dict[str, str] = {}
    at = 0
    while at < len(words) and words[at].startswith("-") and words[at] != "--":
        valued = words[at] in ("-m", "-f", "-u", "-M")
        flags[words[at]] = words[at + 1] if valued and at + 1 < len(words) else ""
        at += 2 if valued else 1
    if "-f" in flags:
        raise ConditionError(f"{flags['-f'] or 'a file'} is not opened: write its lines here")
    return flags, list(words[at + (words[at : at + 1] == ["--"]) :])


def _sources(values: Sequence[str], flags: Mapping[str, str]) -> Ranges:
    if flags.get("-m", "ip") != "ip":
        raise ConditionError("addresses are compared as addresses")
    try:
        return ranges.union(one for value in values for one in ranges.network(value))
    except ipaddress.AddressValueError as err:
        raise ConditionError(str(err)) from None
    except ValueError as err:
        raise ConditionError(f"{err}; {proxy.NO_NAMES}") from None


def _patterns(attribute: str, mode: str, values: Sequence[str], *, folded: bool) -> Test:
    if mode == "found":
        return Test(attribute, ("*",))
    if mode not in _FORMS:
        raise ConditionError("patterns are no regular expressions" if mode == "reg" else f"-m {mode} is not looked at")
    if not values:
        raise ConditionError("there is nothing that it is compared with")
    if attribute == proxy.HOST and any(":" in value for value in values):
        raise ConditionError(f"{attribute} is without a port")
    if attribute in _FOLDED:
        values = [value.lower() for value in values]
    elif folded and attribute != proxy.METHOD and any(value.lower() != value.upper() for value in values):
        raise ConditionError("patterns tell upper from lower case")
    if mode == "dir":
        values = [value.strip("/") for value in values]
    try:
        return Test(attribute, tuple(proxy.pattern(value, form) for value in values for form in _FORMS[mode]))
    except ValueError as err:
        raise ConditionError(str(err)) from None
