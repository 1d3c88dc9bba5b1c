"""Lines and sections of an HAProxy configuration; its configuration manual, sections 2.1 to 2.3."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from appswitch.cli.imports.report import InputError, shown

GIVE = "give an HAProxy configuration, such as /etc/haproxy/haproxy.cfg"
PROXIES = ("frontend", "backend", "listen")
SECTIONS = (
    *("global", "defaults", *PROXIES),
    *(
        "peers",
        "mailers",
        "resolvers",
        "userlist",
        "cache",
        "ring",
        "program",
        "http-errors",
        "fcgi-app",
        "log-forward",
    ),
    *("crt-store", "traces", "log-profile", "acme"),
)


class Line(NamedTuple):
    """One line: its words, and where it stands."""

    where: str
    words: tuple[str, ...]
    text: str

    @property
    def keyword(self) -> str:
        """The first word."""
        return self.words[0]


@dataclass
class Section:
    """From its keyword to the next one."""

    head: Line
    lines: list[Line] = field(default_factory=list)
    defaults: Section | None = None  # of a proxy

    @property
    def kind(self) -> str:
        """``frontend``, ``global``."""
        return self.head.keyword

    @property
    def name(self) -> str:
        """Of a proxy; nothing if it has none."""
        return self.head.words[1] if len(self.head.words) > 1 else ""

    def find(self, *keyword: str) -> Line | None:
        """The last line that begins with these words, its own or from its defaults."""
        own = next((line for line in reversed(self.lines) if line.words[: len(keyword)] == keyword), None)
        return own or (self.defaults.find(*keyword) if self.defaults else None)

    def value(self, *keyword: str) -> str:
        """The word behind them; nothing if there is none."""
        line = self.find(*keyword)
        return line.words[len(keyword)] if line and len(line.words) > len(keyword) else ""


def sections(text: str, source: str) -> list[Section]:
    """Raises InputError for what is no such configuration."""
    found: list[Section] = []
    for number, written in enumerate(text.splitlines(), 1):
        where = f"{source}:{number}"
        words = _words(written, where)
        if not words:
            continue
        line = Line(where, tuple(words), written.strip())
        if line.keyword in SECTIONS:
            found.append(Section(line, defaults=_defaults(line, found)))
        elif not found:
            raise InputError(f"{where}: {shown(line.text)!r} stands in no section: {GIVE}")
        else:
            found[-1].lines.append(line)
    if not any(section.kind in PROXIES for section in found):
        raise InputError(f"{source}: there is no frontend, backend or listen in it: {GIVE}")
    return found


def _defaults(line: Line, before: list[Section]) -> Section | None:
    """Those that it names with ``from``, or the last ones."""
    known = [section for section in before if section.kind == "defaults"]
    if line.keyword not in (*PROXIES, "defaults") or (line.keyword == "defaults" and "from" not in line.words):
        return None
    if "from" in line.words[:-1]:
        name = line.words[line.words.index("from") + 1]
        return next((section for section in reversed(known) if section.name == name), None)
    return known[-1] if known else None


def _words(line: str, where: str) -> list[str]:
    """Separated by spaces; quotes and backslashes protect; # begins a comment."""
    found: list[str] = []
    word: str | None = None
    quote = ""
    chars = iter(line)
    for char in chars:
        if char == "\\" and quote != "'":
            word = (word or "") + next(chars, "")
        elif quote:
            quote = "" if char == quote else quote
            word = (word or "") + (char if quote else "")
        elif char in "\"'":
            quote, word = char, word or ""
        elif char == "#":
            break
        elif char.isspace():
            if word is not None:
                found.append(word)
            word = None
        else:
            word = (word or "") + char
    if quote:
        raise InputError(f"{where}: a quotation does not end: {GIVE}")
    return found if word is None else [*found, word]
