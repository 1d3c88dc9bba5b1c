"""Files into documents: what words mean, and on which lines they stand."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appswitch.cli import documents, output
from appswitch.cli.documents import Document, DocumentError, parse

TEXT = """\
# a comment
kind: VService
metadata: {name: web}
spec:
  ports:
    - 80:53
    - 443
  backends:
    - {ip: 10.0.0.1,
       weight: 2}
---
---
kind: Policy
metadata:
  name: p
"""


def bodies(text: str) -> list[Any]:
    return [one.body for one in parse(text, "f")]


def test_lines() -> None:
    first, second = parse(TEXT, "f.yaml")
    assert first.body["spec"]["ports"] == ["80:53", 443]
    assert second.body == {"kind": "Policy", "metadata": {"name": "p"}}
    lines = {
        (): 2,
        ("kind",): 2,
        ("metadata", "name"): 3,
        ("spec", "ports", 0): 6,
        ("spec", "ports", 7): 5,
        ("spec", "backends", 0, "weight"): 10,
        ("spec", "backends", 0, "labels", "app"): 9,
        ("spec", "wait"): 4,
        ("status",): 2,
    }
    assert {path: first.line(path) for path in lines} == lines
    assert (second.line(), second.line(("metadata", "name")), second.line(("spec",))) == (13, 15, 13)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("22:22", "22:22"), ("2020-01-01", "2020-01-01"), ("0755", "0755"),
        ("1_000", "1_000"), ("0x10", "0x10"), ("true", True), ("False", False), ("12", 12), ("-3", -3), ("1.5", 1.5),
        ("~", None), ("", None), ("'12'", "12"), ("!!str 12", "12"), ("1e3", "1e3"), ("12345678901234567890123", None),
    ],
)  # fmt: skip
def test_words(text: str, value: object) -> None:
    (found,) = bodies(f"a: {text}")
    assert found["a"] == (text if len(text) > 20 else value)
    assert type(found["a"]) is (str if len(text) > 20 else type(value))


def test_json() -> None:
    text = '{\n\t"kind": "VService",\n\t"metadata": {"name": "web"},\n\t"x": [1, true, null, "a\\u00e9\\/"]\n}\n'
    (found,) = parse(text, "f.json")
    assert found.body == {"kind": "VService", "metadata": {"name": "web"}, "x": [1, True, None, "aé/"]}
    assert found.line(("metadata", "name")) == 3


def test_lists() -> None:
    assert bodies('[{"a": 1}, {"a": 2}]') == bodies("- a: 1\n- a: 2\n") == [{"a": 1}, {"a": 2}]
    assert parse("- a: 1\n- b: 2\n", "f")[1].line(("b",)) == 2
    assert bodies("") == bodies("---\n") == bodies("# nothing\n") == []
    assert bodies("just a word") == ["just a word"]


def test_anchors() -> None:
    text = "base: &base {a: 1, b: 2}\nx:\n  <<: *base\n  b: 3\ny: [*base, *base]\nz: {<<: [*base, {c: 4, a: 5}]}\n"
    (found,) = bodies(text)
    assert found["x"] == {"a": 1, "b": 3}
    assert found["y"] == [{"a": 1, "b": 2}] * 2
    assert found["z"] == {"a": 1, "b": 2, "c": 4}


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: 1\nb: 2\na: 3\n", "f:3: the key 'a' is there twice"),
        ('{"a": 1,\n"a": 2}', "f:2: the key 'a' is there twice"),
        ("a: 1\n b: [\n", "f:2: "),
        ("a: [1, 2\n", "f:2: "),
        ("a:\n\tb: 1\n", "f:2: it is indented with a tab: YAML takes spaces"),
        ("a:\n  b: @\n", "f:2: found character"),
        ("a: *b\n", "f:1: "),
        (
            "a: !!python/object:os.system x\n",
            "f:1: the tag tag:yaml.org,2002:python/object:os.system",
        ),
        ("a: !x 1\n", "f:1: the tag !x means nothing here"),
        ("? [a]\n: b\n", "f:1: a key is a word"),
        ("a: &a [*a]\n", "f:1: it is nested deeper than 64"),
        ("a: &a {<<: *a}\n", "f:1: it is nested deeper than 64"),
        ("a: {<<: 3}\n", "f:1: << takes in a mapping"),
        ("[" * 100_000, "f:1: "),
        ("a: \x00\n", "f"),
        (LAUGHS, "there are more than 1000000 values"),
    ],
)
def test_what_is_none(text: str, error: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse(text, "f")
    assert error in str(caught.value)
    assert str(caught.value).startswith("f")


def test_files(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.json", "c.yml", "d.txt", ".e.yaml"):
        (tmp_path / name).write_text("")
    (tmp_path / "empty").mkdir()
    assert list(documents.files([str(tmp_path), "x"])) == [
        *(f"{tmp_path}/{n}" for n in ("a.json", "b.yaml", "c.yml")),
        "x",
    ]
    with pytest.raises(DocumentError, match="there is no file"):
        list(documents.files([str(tmp_path / "empty")]))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=12)
    | st.from_regex(r"[-+]?[0-9.:eExX_~=<]{1,8}", fullmatch=True) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1, max_size=6), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=6), VALUES, min_size=1, max_size=4))
def test_what_is_written_is_read(value: dict[str, Any]) -> None:
    """As `ax get -o yaml` writes it."""
    written = io.StringIO()
    output.dump_all([value], written)
    assert bodies(written.getvalue()) == [value]


@settings(deadline=None)
@given(st.text(max_size=200))
def test_anything(text: str) -> None:
    with contextlib.suppress(DocumentError):
        assert all(isinstance(one, Document) and one.line() for one in parse(text, "f"))
