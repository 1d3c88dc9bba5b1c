"""Files with documents: YAML or JSON, and the line on which each of their fields stands.

YAML as it is meant: `yes`, `on` and `22:22` are text (YAML 1.2 has given those types of 1.1 up), a key that is there
twice is an error, and what anchors stand for is bounded. What PyYAML writes is read as it was.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

MAX_BYTES = 64 << 20  # of a file
MAX_VALUES = 1_000_000  # of a file, those that aliases repeat included
MAX_DEPTH = 64
SUFFIXES = (".yaml", ".yml", ".json")

Path = tuple[str | int, ...]


class DocumentError(Exception):
    """A file that cannot be read. The text begins with its name, and the line where there is one."""


class _Resolver(yaml.resolver.BaseResolver):
    """Which plain words are not text."""


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"([-+]?[0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?", list("-+.0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Resolver.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)

_PURE = (yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser, yaml.composer.Composer)
_PARTS: tuple[Any, ...] = (vars(yaml)["cyaml"].CParser,) if yaml.__with_libyaml__ else _PURE


class _Loader(*_PARTS, _Resolver):  # type: ignore[misc] # libyaml's where there is one: it is ten times faster
    def __init__(self, text: str) -> None:
        first, *others = _PARTS
        first.__init__(self, text)
        for part in (*others, _Resolver):
            part.__init__(self)


class Document:
    """What a file says, and where."""

    def __init__(self, file: str, body: Any, lines: dict[Path, int]) -> None:
        self.file = file
        self.body = body
        self._lines = lines

    def line(self, path: Sequence[str | int] = ()) -> int:
        """Of a field; of what it is missing from, if it is not there."""
        where = tuple(path)
        while where not in self._lines:
            where = where[:-1]
        return self._lines[where]


def files(places: Sequence[str]) -> Iterator[str]:
    """Files as they are named, and those of directories with a suffix that fits, in order. Raises DocumentError."""
    for place in places:
        if not os.path.isdir(place):
            yield place
            continue
        found = sorted(name for name in os.listdir(place) if name.endswith(SUFFIXES) and not name.startswith("."))
        if not found:
            raise DocumentError(f"{place}: there is no file {', '.join('*' + one for one in SUFFIXES)} in it")
        yield from (os.path.join(place, name) for name in found)


def parse(text: str, file: str) -> list[Document]:
    """All documents: several with ``---`` between them, or in a list. Raises DocumentError."""
    if text.lstrip().startswith(("{", "[")):
        text = text.replace("\t", " ")  # JSON may be indented with tabs, and has none within its words
    documents: list[Document] = []
    try:
        loader = _Loader(text)
        reading = _Reading(file)
        while loader.check_node():
            documents += reading.documents(loader.get_node())
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        line = mark.line if mark else 0
        raise DocumentError(f"{file}:{line + 1}: {_why(err, text, line)}") from None
    except (yaml.YAMLError, RecursionError) as err:
        raise DocumentError(f"{file}: {str(err).splitlines()[0]}") from None
    return documents


def _why(err: yaml.MarkedYAMLError, text: str, line: int) -> str:
    """In our words where YAML's leave one in the dark."""
    at_fault = "".join(text.split("\n")[line : line + 1])
    if at_fault.lstrip(" ").startswith("\t"):
        return "it is indented with a tab: YAML takes spaces"
    return str(err.problem or err.context)


class _Reading:
    """From nodes to values, and the line of each."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._values = 0
        self._lines: dict[Path, int] = {}

    def documents(self, root: yaml.Node) -> Iterator[Document]:
        if isinstance(root, yaml.SequenceNode):
            nodes = root.value
        elif root.tag.endswith(":null"):
            nodes = []  # nothing between two ---
        else:
            nodes = [root]
        for node in nodes:
            self._lines = {}
            body = self._value(node, ())
            yield Document(self._file, body, self._lines)

    def _value(self, node: yaml.Node, path: Path) -> Any:
        self._count(node, path)
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(one, (*path, number)) for number, one in enumerate(node.value)]
        return self._scalar(node)

    def _count(self, node: yaml.Node, path: Path) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise self._error(node, f"there are more than {MAX_VALUES} values, those that aliases repeat included")
        if len(path) > MAX_DEPTH:
            raise self._error(node, f"it is nested deeper than {MAX_DEPTH}")

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag.endswith(":merge"):
                for one in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    merged = {**self._merged(one, path), **merged}
                continue
            name = self._key(key)
            if name in found:
                raise self._error(key, f"the key {name!r} is there twice")
            self._lines[(*path, name)] = key.start_mark.line + 1
            found[name] = self._value(value, (*path, name))
        return {**merged, **found}

    def _merged(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node, "<< takes in a mapping, or several in a list")
        self._count(node, path)
        return self._mapping(node, (*path, "<<"))

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, "a key is a word")
        return str(node.value)

    def _scalar(self, node: yaml.Node) -> Any:
        kind = node.tag.rpartition(":")[2]
        match kind:
            case "str":
                return node.value
            case "null":
                return None
            case "bool":
                return node.value.lower() == "true"
            case "int":
                return int(node.value) if len(node.value) < 20 else node.value
            case "float":
                return float(node.value)
        raise self._error(node, f"the tag {node.tag} means nothing here")

    def _error(self, node: yaml.Node, detail: str) -> DocumentError:
        return DocumentError(f"{self._file}:{node.start_mark.line + 1}: {detail}")
