"""``ax policy``: what would policies say to a connection, and which policies would allow what is going on."""

from __future__ import annotations

import contextlib
import json
import math
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import click

from appswitch.cli import learn, locate, options, output, rest

PREFIX = re.compile("[a-z]([-a-z0-9]{0,29}[a-z0-9])?")
DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h|)")
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
TICK = 0.5  # seconds between two lines of progress

EPILOG = """\
\b
Examples:
  ax policy test web db:5432
  ax policy learn --for 10m > policies.yaml
  ax policy --help, ax policy test --help, ax policy learn --help
"""

TEST_EPILOG = """\
\b
Examples:
  ax policy test web 10.1.0.7:80                  from an app's name (or id) to an address
  ax policy test web shop                         to a vservice that has one port
  ax policy test web db:53 --protocol udp
  ax policy test web shop --attribute http.method=GET --attribute http.path=/x
  ax policy test web db:5432 --uid 1000 --executable /usr/bin/psql && echo allowed

\b
Exit status: 0 allowed, 1 denied, 2 it could not be asked.
"""

LEARN_EPILOG = """\
\b
Examples:
  ax policy learn                                 until Ctrl-C; the policies go to standard output
  ax policy learn --for 1h --app db > db.yaml     only about who connects to db
  ax flows --follow -o json > flows.jsonl; ax policy learn --from-file flows.jsonl
  ax policy learn --for 10m --generalize 24       clients outside by networks of 256 addresses

\b
A server that was seen is closed by what is learned for all who were not seen connecting to it.
"""

FORM = ["table", "json"]
_run_dir = click.option(
    "--run-dir", metavar="DIR", envvar="AX_RUN_DIR", show_envvar=True, help="The daemon's directory."
)


@click.group("policy", epilog=EPILOG)
def command() -> None:
    """Try policies, and write them from what is seen. `ax get policies` and `ax apply` show and change them."""


# -- test


@command.command("test", epilog=TEST_EPILOG)
@click.argument("from_", metavar="FROM")
@click.argument("to", metavar="TO")
@click.option("--protocol", type=click.Choice(["tcp", "udp"]), default="tcp", show_default=True)
@click.option(
    "--attribute", "attributes", metavar="NAME=VALUE", multiple=True, help="What the first bytes tell: http.path=/x."
)
@click.option("--uid", type=click.IntRange(0, 2**32 - 2), help="Of the process that calls.")
@click.option("--executable", metavar="PATH", help="The program that calls.")
@click.option("-o", "--output", "form", type=click.Choice(FORM), default="table", show_default=True)
@_run_dir
def test(from_: str, to: str, attributes: tuple[str, ...], form: str, run_dir: str | None, **more: Any) -> int:
    """Tell step by step what would become of a connection from app FROM to TO, and connect nothing."""
    body = {"from": from_, "to": to, "attributes": _attributes(attributes)}
    body |= {key: value for key, value in more.items() if value is not None}
    try:
        answer = locate.ask(run_dir, "POST", "/v1/explain", body)
    except (rest.DaemonDownError, rest.RefusedError) as err:
        raise options.UsageError(str(err)) from None  # 1 would be a denial
    if form == "json":
        output.dump(answer, form, sys.stdout)
    else:
        *steps, verdict = answer["steps"]
        click.echo("\n".join([*steps, output.heading(verdict)]))
    return 0 if answer["allowed"] else 1


def _attributes(given: Iterable[str]) -> dict[str, str]:
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise options.UsageError(f"--attribute: {text!r} is not NAME=VALUE, such as http.path=/x")
        found[name] = value
    return found


# -- learn


@command.command("learn", epilog=LEARN_EPILOG)
@click.option("--for", "duration", metavar="TIME", help="How long to watch: 60s, 10m, 1h. Until Ctrl-C if not given.")
@click.option("--app", "apps", metavar="NAME|ID", multiple=True, help="Only connections to this app.")
@click.option("-o", "--output", "form", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
@click.option("--name", "prefix", metavar="PREFIX", default="learned", show_default=True, help="Of policies' names.")
@click.option(
    "--from-file", "file", metavar="FILE", help="Flows, one in JSON a line, instead of the daemon's; - is stdin."
)
@click.option(
    "--generalize", metavar="BITS[,BITS6]", help="Widen clients known by address to IPv4 (and IPv6) networks so long."
)
@_run_dir
def learn_(
    duration: str | None,
    apps: tuple[str, ...],
    form: str,
    prefix: str,
    file: str | None,
    generalize: str | None,
    run_dir: str | None,
) -> int:
    """Watch connections for a while, and write the least ingress policies that allow exactly these.

    What is connected already counts, too. Nothing is changed: read them, then `ax apply -f`.
    """
    seconds = None if duration is None else _duration(duration)
    if not PREFIX.fullmatch(prefix):
        raise options.UsageError(f"--name: {prefix!r}: give up to 31 small letters, digits and hyphens, a letter first")
    lesson = Lesson(apps, prefix, {} if generalize is None else _widths(generalize))
    if file is not None:
        _read(file, lesson)
        complete = True
    else:
        complete = _watch(run_dir, lesson, seconds)
    learned = lesson.learned()
    documents = [learn.document(one) for one in learned.policies]
    if form == "json":
        output.dump(documents, form, sys.stdout)
    else:
        for document in documents:
            output.dump_line(document, form, sys.stdout)
    for note in learned.notes:
        click.echo(f"ax policy learn: {note}", err=True)
    click.echo(f"ax policy learn: {lesson.progress(learned)}", err=True)
    return 0 if complete else 1


def _duration(text: str) -> float:
    match = DURATION.fullmatch(text)
    if match is None or float(match[1]) == 0:
        raise options.UsageError(f"--for: {text!r} is not a time: give 60s, 10m or 1h")
    return float(match[1]) * SECONDS[match[2]]


def _widths(text: str) -> dict[int, int]:
    match = re.fullmatch("([0-9]{1,3})(?:,([0-9]{1,3}))?", text)
    if match is None or int(match[1]) > 32 or int(match[2] or 0) > 128:
        raise options.UsageError(
            f"--generalize: {text!r}: give a prefix length, or one for IPv4 and one for IPv6: 24,64"
        )
    return {4: int(match[1])} | ({6: int(match[2])} if match[2] else {})


class Lesson:
    """What was seen so far."""

    def __init__(self, apps: Iterable[str], prefix: str, widen: Mapping[int, int]) -> None:
        self._apps = frozenset(one.lower() for one in apps)
        self._prefix = prefix
        self._widen = widen
        self._seen: set[learn.Seen] = set()
        self._ends: set[learn.End] = set()
        self._flows = 0

    def flow(self, row: learn.Row) -> None:
        """Note it, if it is a connection to somebody whom it is about. Raises ValueError if it is no flow."""
        one = learn.seen(row)
        if one is None or (self._apps and not self._is_about(row)):
            return
        self._flows += 1
        self._seen.add(one)

    def known(self, ends: Iterable[learn.End]) -> None:
        """There are these, too."""
        self._ends.update(ends)

    def learned(self) -> learn.Learned:
        """The policies that follow."""
        return learn.learn(self._seen, self._ends, prefix=self._prefix, widen=self._widen)

    def progress(self, learned: learn.Learned) -> str:
        """In a line."""
        return f"{self._flows} flows seen, {len(self._seen)} of them different, {len(learned.policies)} policies"

    def _is_about(self, row: learn.Row) -> bool:
        return not self._apps.isdisjoint({str(row["server_name"]).lower(), f"{row['server_app']:08x}"})


def _read(file: str, lesson: Lesson) -> None:
    with contextlib.ExitStack() as stack:
        try:
            lines = sys.stdin if file == "-" else stack.enter_context(open(file, encoding="utf-8"))
            for number, line in enumerate(lines, 1):
                if line.strip():
                    _read_line(line, f"{file}:{number}", lesson)
        except (OSError, UnicodeDecodeError) as err:
            raise options.UsageError(f"{file}: {getattr(err, 'strerror', None) or err}") from None


def _read_line(line: str, where: str, lesson: Lesson) -> None:
    try:
        lesson.flow(json.loads(line))
    except ValueError as err:
        raise options.UsageError(f"{where}: {err}") from None


class _TimeUp(Exception):  # noqa: N818 - it is none
    """--for is over."""


@contextlib.contextmanager
def _ticking(seconds: float | None, tick: Callable[[], None]) -> Iterator[None]:
    """Call ``tick`` now and then, and raise _TimeUp when it is time, in whatever is done then."""
    end = math.inf if seconds is None else time.monotonic() + seconds

    def ring(*_: object) -> None:
        began = time.monotonic()
        if began >= end:
            raise _TimeUp
        tick()
        arm(10 * (time.monotonic() - began))

    def arm(least: float = TICK) -> None:
        pause = min(max(least, TICK), end - time.monotonic())
        signal.setitimer(signal.ITIMER_REAL, max(pause, 0.001))

    before = signal.signal(signal.SIGALRM, ring)
    try:
        arm()
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _watch(run_dir: str | None, lesson: Lesson, seconds: float | None) -> bool:
    """Until time is up or the user has had enough. False: the daemon ended it."""
    _take_what_is_there(run_dir, lesson)
    _, sock = locate.reach(run_dir)
    show = _draw if sys.stderr.isatty() else _nothing
    ended = False
    try:
        with _ticking(seconds, lambda: show(lesson)):
            show(lesson)
            for row in rest.stream(sock, "/v1/flows?follow=true&limit=0&verdict=allowed"):
                lesson.flow(row)
            ended = True
    except (_TimeUp, KeyboardInterrupt):
        pass
    show(None)
    try:
        _take_what_is_there(run_dir, lesson)
    except rest.DaemonDownError:
        ended = True
    if ended:
        click.echo("ax policy learn: the daemon has ended, and this is what was seen until then", err=True)
    return not ended


def _take_what_is_there(run_dir: str | None, lesson: Lesson) -> None:
    """Apps, and their connections. Raises rest.DaemonDownError."""
    apps = {row["app"]["id"]: row["app"] for row in locate.ask(run_dir, "GET", "/v1/apps")["apps"]}
    lesson.known(end for app in apps.values() for end in learn.ends_of(app))
    for connection in locate.ask(run_dir, "GET", "/v1/connections")["connections"]:
        lesson.flow(learn.flow_of(connection, apps))


def _draw(lesson: Lesson | None) -> None:
    """A line on the terminal, over itself; None: nothing is left of it."""
    text = "" if lesson is None else f"{lesson.progress(lesson.learned())} (Ctrl-C: that is enough)"
    sys.stderr.write(f"\r\x1b[K{text}")
    sys.stderr.flush()


def _nothing(_: Lesson | None) -> None:
    """There is no terminal."""
