"""An nginx configuration as a tree of directives, by crossplane. No file but the one that was given is opened."""

from __future__ import annotations

import fnmatch
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import crossplane

from appswitch.cli.imports.report import InputError, Report

GIVE = "give an nginx configuration, such as /etc/nginx/nginx.conf, or what `nginx -T` prints"
MAX_TEXT = 4 << 20  # characters: crossplane looks at each by itself
# What `nginx -T` prints before each file.
_FILE = re.compile(r"^# configuration file (\S+):$", re.MULTILINE)
NOT_OPENED = "it is not opened: `nginx -T` prints all files in one"


class Directive(NamedTuple):
    """A name, its words, and for a block what is in it."""

    name: str
    args: tuple[str, ...]
    where: str
    block: tuple[Directive, ...] | None = None

    @property
    def text(self) -> str:
        """As it is written, without what is in its block."""
        return " ".join((self.name, *self.args))

    @property
    def inside(self) -> tuple[Directive, ...]:
        """What is in its block; nothing if it has none."""
        return self.block or ()

    def all(self, *names: str) -> Iterator[Directive]:
        """The directives in its block with one of these names."""
        return (one for one in self.inside if one.name in names)

    def first(self, *names: str) -> Directive | None:
        """The first of them."""
        return next(self.all(*names), None)


def parse(text: str, source: str, report: Report) -> tuple[Directive, ...]:
    """What stands outermost. Raises InputError for what is no such configuration."""
    if len(text) > MAX_TEXT:
        raise InputError(f"{source}: more than {MAX_TEXT >> 20} MiB: give a part of it")
    parts = _FILE.split(text)  # text before, name, text, name, text ...
    files = {name: content.removeprefix("\n") for name, content in zip(parts[1::2], parts[2::2], strict=True)}
    main = next(iter(files), source)
    trees = {name: _statements(content, name) for name, content in files.items()}
    outermost = trees[main] if trees else _statements(text, source)
    made = _Including(trees, os.path.dirname(main), report).directives(outermost, main, (main,))
    if not made:
        raise InputError(f"{source}: there is no directive in it: {GIVE}")
    return made


def _statements(text: str, name: str) -> list[Any]:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".conf") as file:
        file.write(text)
        file.flush()
        payload = crossplane.parse(file.name, single=True, check_ctx=False, check_args=False)
    for error in payload["errors"]:
        why = re.sub(r" in \S+:\d+$", "", error["error"]) or "it ends within a directive"
        line = f":{error['line']}" if error["line"] else ""
        raise InputError(f"{name}{line}: {why}: {GIVE}")
    statements: list[Any] = payload["config"][0]["parsed"]
    return statements


class _Including:
    """Puts included files where they are included, as far as they were given."""

    def __init__(self, trees: Mapping[str, Sequence[Any]], directory: str, report: Report) -> None:
        self._trees = trees
        self._directory = directory
        self._report = report

    def directives(self, statements: Sequence[Any], file: str, stack: tuple[str, ...]) -> tuple[Directive, ...]:
        found: list[Directive] = []
        for one in statements:
            where = f"{file}:{one['line']}"
            if one["directive"] == "include" and one["args"]:
                found += self._included(one["args"][0], where, stack)
            else:
                block = self.directives(one["block"], file, stack) if "block" in one else None
                found.append(Directive(one["directive"], tuple(one["args"]), where, block))
        return tuple(found)

    def _included(self, pattern: str, where: str, stack: tuple[str, ...]) -> list[Directive]:
        path = os.path.join(self._directory, pattern)
        names = [name for name in self._trees if fnmatch.fnmatchcase(name, path) and name.count("/") == path.count("/")]
        if not names:
            self._report.leave_out(where, f"include {pattern}", NOT_OPENED)
        found: list[Directive] = []
        for name in sorted(names):
            if name in stack:
                raise InputError(f"{where}: the files {' -> '.join((*stack, name))} include each other")
            found += self.directives(self._trees[name], name, (*stack, name))
        return found
