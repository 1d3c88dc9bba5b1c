"""What users are told when something goes wrong: every sentence that is raised for them, read from the sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import appswitch
from appswitch.control.problems import SLUGS

SOURCES = Path(appswitch.__file__).parent
# Raised with a text that somebody reads: a user of `ax`, of the REST API, or who starts the daemon.
FOR_USERS = {
    "BadParameter", "ClickException", "DaemonDownError", "KeeperError", "ListenError", "NodeError", "ProblemError",
    "SettingsError", "StoreError", "SwitchDownError", "UsageError", "UsersError",
}  # fmt: skip
OURS = re.compile(r"\bself\.|\bNone\b|Traceback|msgspec|pydantic|asyncio|0x[0-9a-f]{6}|errno \d")


def texts(node: ast.AST) -> str:
    """A string as far as it is written down; what is filled in is a word."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(texts(one) for one in node.values)
    if isinstance(node, ast.FormattedValue):
        return "X"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return texts(node.left) + texts(node.right)
    return ""


def raised() -> Iterator[tuple[str, str, str, str]]:
    """Where, which exception, its slug if it has one, and the text."""
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            call = node.exc if isinstance(node, ast.Raise) else None
            if not isinstance(call, ast.Call) or not call.args:
                continue
            name = ast.unparse(call.func).rpartition(".")[2]
            if name in FOR_USERS:
                where = f"{path.relative_to(SOURCES)}:{call.lineno}"
                slug = str(getattr(call.args[0], "value", "")) if name == "ProblemError" else ""
                text = texts(call.args[1]) if name == "ProblemError" and len(call.args) > 1 else texts(call.args[0])
                yield where, name, slug, text


ALL = list(raised())


def test_there_are_many() -> None:
    assert len(ALL) > 100
    assert {name for _, name, _, _ in ALL} >= {"ProblemError", "UsageError", "KeeperError", "DaemonDownError"}


@pytest.mark.parametrize("name", sorted({name for _, name, _, _ in ALL}))
def test_texts_are_for_people(name: str) -> None:
    """Sentences without a capital and a full stop: they stand behind ``ax:``. No words of Python."""
    wrong = []
    for where, found, _, text in ALL:
        if found == name and text:
            bad = OURS.search(text) or text.endswith(".") or (text[0].isupper() and text[1:2].islower())
            wrong += [f"{where}: {text!r}"] if bad else []
    assert not wrong, "\n".join(wrong)


def test_slugs_are_documented_ones() -> None:
    """Programs rely on them: none is made up where it is raised, and none stands for nothing."""
    used = {slug for _, name, slug, _ in ALL if name == "ProblemError" and slug}
    assert used <= SLUGS.keys()
    for slug, (status, title) in SLUGS.items():
        assert 400 <= status < 600, slug
        assert title[0].isupper(), slug
        assert not title.endswith("."), slug
