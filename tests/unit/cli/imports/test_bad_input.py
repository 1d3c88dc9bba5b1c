"""Half files, other files, hostile files: a sentence and status 2, or what can be read. Never a traceback."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.cli.imports.test_samples import FILES, SAMPLES
from tests.unit.cli.imports.test_samples import FORMATS as BY_SUFFIX

from appswitch.cli.imports import command as module
from appswitch.cli.imports import flatten
from appswitch.cli.imports.command import FORMATS, command
from appswitch.cli.options import UsageError

GIVE = {
    "iptables": "iptables-save",
    "nft": "nft -j list ruleset",
    "haproxy": "HAProxy configuration",
    "nginx": "nginx configuration",
}
MANY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def attempt(source: str, text: str | bytes) -> str:
    """What is said of it: nothing if it was read."""
    done = CliRunner().invoke(command, [source, "-"], input=text, standalone_mode=False)
    if done.exception is None:
        assert done.return_value == 0
        return ""
    if isinstance(done.exception, UsageError):
        assert "\n" not in str(done.exception)
        return str(done.exception)
    raise done.exception


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("text", ["", " \n\t\n", "\ufeff"])
def test_nothing(source: str, text: str) -> None:
    assert attempt(source, text) == "stdin: there is nothing in it"


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("data", [b"\x7fELF\0\0\1", b"\0"])
def test_binary(source: str, data: bytes) -> None:
    assert attempt(source, data) == "stdin: this is not text"


@pytest.mark.parametrize("source", FORMATS)
def test_another_format(source: str) -> None:
    for name in FILES:
        if BY_SUFFIX[Path(name).suffix] != source:
            said = attempt(source, (SAMPLES / name).read_text())
            assert GIVE[source] in said, name


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize(
    "text", ["hello\n", "{}", "[]", "null", "*", "*filter", "}", "{", '"', "\\", "#", "a b c;", "a{", "\x1b[2J;"]
)
def test_no_such_thing(source: str, text: str) -> None:
    said = attempt(source, text)
    assert GIVE[source] in said
    assert "\x1b" not in said


@pytest.mark.parametrize("name", FILES)
def test_half_a_file(name: str) -> None:
    """It ends somewhere: either that is noticed, or the half is one by itself."""
    text = (SAMPLES / name).read_text()
    for seed in range(12):
        attempt(BY_SUFFIX[Path(name).suffix], text[: random.Random(seed).randrange(len(text))])


@MANY
@given(st.sampled_from(FILES), st.randoms(use_true_random=False))
def test_lines_gone_doubled_and_moved(name: str, chance: random.Random) -> None:
    lines = (SAMPLES / name).read_text().splitlines()
    for _ in range(chance.randrange(1, 6)):
        at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        lines[at : at + 1] = chance.choice([[], [lines[other]], [lines[at]] * 2, [lines[at][: chance.randrange(80)]]])
        lines = lines or [""]
    attempt(BY_SUFFIX[Path(name).suffix], "\n".join(lines))


@MANY
@given(st.sampled_from([name for name in FILES if not name.endswith(".json")]), st.randoms(use_true_random=False))
def test_words_gone_and_swapped(name: str, chance: random.Random) -> None:
    words = (SAMPLES / name).read_text().split(" ")
    for _ in range(chance.randrange(1, 6)):
        at, other = chance.randrange(len(words)), chance.randrange(len(words))
        words[at] = chance.choice(
            ["", words[other], "-1", "99999999999", "999.1.1.1", "é\u202e", "!", "::", "[", "0", "10.0.0.1/99"]
        )
    attempt(BY_SUFFIX[Path(name).suffix], " ".join(words))


@MANY
@given(st.sampled_from([name for name in FILES if name.endswith(".json")]), st.randoms(use_true_random=False))
def test_json_of_another_shape(name: str, chance: random.Random) -> None:
    tree = json.loads((SAMPLES / name).read_text())
    for _ in range(chance.randrange(1, 4)):
        spoil(tree, chance)
    attempt("nft", json.dumps(tree))


def spoil(tree: Any, chance: random.Random) -> None:
    """Another value somewhere in it."""
    strange: list[Any] = [
        None,
        [],
        {},
        "",
        -1,
        1 << 80,
        1.5,
        True,
        "@nosuch",
        {"set": []},
        {"concat": ["a", 1]},
        {"range": [1]},
    ]
    while isinstance(tree, dict | list) and tree:
        key = chance.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
        if chance.random() < 0.1 or not isinstance(tree[key], dict | list):
            tree[key] = chance.choice(strange)
            return
        tree = tree[key]


@pytest.mark.parametrize("source", FORMATS)
@MANY
@given(text=st.text(max_size=200))
def test_any_text(source: str, text: str) -> None:
    attempt(source, text.encode("utf-8", "surrogatepass"))


def test_deep() -> None:
    for text in ("[" * 100_000, '{"nftables":' * 50_000, '{"nftables":[{"rule":' * 20_000):
        assert GIVE["nft"] in attempt("nft", text)
    assert GIVE["nginx"] in attempt("nginx", "a {" * 20_000 + "}" * 20_000)


def test_chains_that_lead_back() -> None:
    loop = "*filter\n:INPUT ACCEPT [0:0]\n:a - [0:0]\n:b - [0:0]\n-A INPUT -j a\n-A a -j b\n-A b -g a\nCOMMIT\n"
    assert "a -> b -> a lead back to themselves" in attempt("iptables", loop)
    assert "lead back" in attempt("iptables", loop.replace("filter", "nat").replace("INPUT", "OUTPUT"))


def test_chains_that_are_missing() -> None:
    assert "the chain 'a', which is not there" in attempt(
        "iptables", "*filter\n:INPUT DROP [0:0]\n-A INPUT -j a\nCOMMIT\n"
    )


def test_files_that_include_each_other() -> None:
    text = "# configuration file /a/x:\ninclude y;\n# configuration file /a/y:\ninclude x;\n"
    assert "include each other" in attempt("nginx", text)


def test_no_file_is_opened_but_the_one_that_is_named(tmp_path: Path) -> None:
    """crossplane would open what is included."""
    secret = tmp_path / "secret.conf"
    secret.write_text("upstream secret { server 10.1.1.1:1; }")
    file = tmp_path / "nginx.conf"
    file.write_text(
        f"http {{ include {secret}; include *.conf;"
        " server { listen 80; location / { proxy_pass http://secret; } } }"
    )
    done = CliRunner().invoke(command, ["nginx", str(file)], standalone_mode=False)
    assert done.exception is None
    assert "10.1.1.1" not in done.output
    assert done.stderr.count("is not opened") == 2


def test_entangled_rules_are_left_out_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flatten, "MAX_WORK", 20_000)
    rules = [
        f"-A INPUT -s 10.{a}.0.0/16 -d 10.{b}.0.0/16 -p tcp --dport {1 + (a * 7 + b * 13) % 999}"
        f" -j {('ACCEPT', 'DROP')[(a * b) % 2]}"
        for a in range(70)
        for b in range(70)
    ]
    text = "\n".join(["*filter", ":INPUT DROP [0:0]", *rules, "COMMIT", ""])
    done = CliRunner().invoke(command, ["iptables", "-", "--strict"], input=text, standalone_mode=False)
    assert done.exception is None
    assert (done.return_value, done.stdout) == (3, "")
    assert "the chain filter INPUT: its rules" in done.stderr


def test_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_INPUT", 1 << 20)
    assert attempt("iptables", "#" * ((1 << 20) + 1)) == "stdin: more than 1 MiB: give a part of it"


# -- as it is called


def ax(*words: str, input: str = "") -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "appswitch.cli", "import", *words]
    return subprocess.run(
        call, input=input, capture_output=True, text=True, timeout=30, check=False, env=dict(os.environ)
    )


def test_status_and_streams(tmp_path: Path) -> None:
    rules = (
        "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -s 10.0.0.1 -j DROP\n-A INPUT -m limit -s 10.0.0.2 -j DROP\nCOMMIT\n"
    )
    for words, status in (((), 0), (("--strict",), 3)):
        done = ax("iptables", "--name-prefix", "old-", *words, input=rules)
        assert done.returncode == status
        assert done.stdout.count("kind: Policy") == 1
        assert "name: old-input-deny\n" in done.stdout
        assert done.stderr.startswith("ax import: left out: stdin:4: -A INPUT -m limit -s 10.0.0.2 -j DROP: ")
        assert done.stderr.endswith("ax import: 0 vservices, 1 policies, 1 left out\n")
    for words, said in (
        (("iptables", str(tmp_path)), "Is a directory"),
        (("iptables", str(tmp_path / "none")), "No such file"),
        (("iptables", "-"), "there is nothing in it"),
        (("pf",), "'pf' is not one of"),
    ):
        done = ax(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert "Traceback" not in done.stderr
