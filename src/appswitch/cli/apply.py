"""``ax apply``: make what files say."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from appswitch.cli import documents, locate, output
from appswitch.cli.documents import Document, DocumentError

MAX_REQUEST = 512 << 10  # bytes of documents: the daemon takes a body of 1 MiB
EPILOG = """\
Files are YAML (several documents with --- between them) or JSON; a directory stands for its *.yaml, *.yml and *.json, -
for standard input. A wrong document is rejected alone, with its file, line and field, and the exit status is 1; the
others are applied. What is there already in the same words is left as it is. docs/services.md tells what documents say.

\b
Examples:
  ax apply -f web.yaml
  ax apply -f services/ -f policies/ --dry-run
  ax get vservices -o yaml | ssh other ax apply -f -
  ax apply -f policies/ --kill             close what is forbidden now
"""
RESULTS = ("created", "changed", "unchanged", "rejected")
Applied = dict[str, Any]


@click.command("apply", epilog=EPILOG)
@click.option("-f", "--file", "places", multiple=True, required=True, metavar="FILE|DIR|-", help="What to apply.",
              type=click.Path(allow_dash=True))  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Tell what would become of it, and change nothing.")
@click.option("--kill", is_flag=True, help="Close the established connections that policies forbid then.")
@click.option("-o", "--output", "form", type=click.Choice(["table", "json"]), default="table", show_default=True,
              help="How to print the results.")  # fmt: skip
@click.option("--run-dir", metavar="DIR", envvar="AX_RUN_DIR", show_envvar=True, help="The daemon's directory.")
def command(places: tuple[str, ...], dry_run: bool, kill: bool, form: str, run_dir: str | None) -> int:
    """Create and change vservices, policies, references and proxies as files say."""
    found, broken = read(places)
    for error in broken:
        click.echo(f"ax: {error}", err=True)
    sent = Sent()
    try:
        send(found, sent, run_dir, dry_run=dry_run, kill=kill)
    finally:  # what was done before something failed is done
        for document, result in zip(found, sent.results, strict=False):
            for line in complaints(document, result):
                click.echo(f"ax: {line}", err=True)
        _print(form, found, sent)
    return 1 if broken or any(one["result"] == "rejected" for one in sent.results) else 0


def read(places: Sequence[str]) -> tuple[list[Document], list[DocumentError]]:
    """Every document that can be read, and why others cannot."""
    found: list[Document] = []
    broken: list[DocumentError] = []
    for place in places:
        try:
            for file in documents.files([place]):
                try:
                    found += documents.parse(_text(file), file)
                except DocumentError as err:
                    broken.append(err)
        except DocumentError as err:
            broken.append(err)
    return found, broken


def _text(file: str) -> str:
    try:
        with sys.stdin.buffer if file == "-" else open(file, "rb") as source:
            data = source.read(documents.MAX_BYTES + 1)
    except OSError as err:
        raise DocumentError(f"{file}: {err.strerror}") from None
    if len(data) > documents.MAX_BYTES:
        raise DocumentError(f"{file}: it has more than {documents.MAX_BYTES} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise DocumentError(f"{file}:{line}: it is not UTF-8") from None


class Sent:
    """What became of the documents so far, and the connections that were closed."""

    def __init__(self) -> None:
        self.results: list[Applied] = []
        self.killed: list[output.Row] = []


def send(found: Sequence[Document], sent: Sent, run_dir: str | None, *, dry_run: bool, kill: bool) -> None:
    """As many requests as it takes. Raises rest.DaemonDownError, rest.RefusedError."""
    parts = list(_parts(found))
    for number, part in enumerate(parts, 1):
        query = f"dryRun={str(dry_run).lower()}&kill={str(kill and number == len(parts)).lower()}"
        answer = locate.ask(run_dir, "POST", f"/v1/apply?{query}", part)
        sent.results += answer["results"]
        sent.killed += answer["killed"]


def _parts(found: Sequence[Document]) -> Iterator[list[Any]]:
    """As much as a request may hold; one that is larger than that is the daemon's to refuse."""
    part: list[Any] = []
    size = 0
    for document in found:
        length = len(json.dumps(document.body))
        if part and size + length > MAX_REQUEST:
            yield part
            part, size = [], 0
        part.append(document.body)
        size += length + 2
    yield part


def complaints(document: Document, result: Applied) -> Iterator[str]:
    """Why it was rejected: file, line and field of each reason."""
    if result["result"] != "rejected":
        return
    called = " ".join(filter(None, (result["kind"], result["name"])))
    for error in result["errors"] or [{"path": [], "detail": result["detail"]}]:
        field = ".".join(map(str, error["path"]))
        where = f"{document.file}:{document.line(error['path'])}"
        yield ": ".join(filter(None, (where, called, field, error["detail"])))


COLUMNS: output.Columns = (
    ("KIND", lambda row: str(row["kind"])),
    ("NAME", lambda row: str(row["name"])),
    ("RESULT", lambda row: str(row["result"])),
    ("WHERE", lambda row: str(row["where"])),
)


def _print(form: str, found: Sequence[Document], sent: Sent) -> None:
    pairs = zip(found, sent.results, strict=False)
    rows = [{**result, "where": f"{document.file}:{document.line()}"} for document, result in pairs]
    if form == "json":
        output.dump({"results": rows, "killed": sent.killed}, "json", sys.stdout)
        return
    head, *lines = output.table(COLUMNS, rows)
    counts = {result: sum(one["result"] == result for one in rows) for result in RESULTS}
    summary = ", ".join(f"{number} {result}" for result, number in counts.items() if number) or "nothing was applied"
    click.echo("\n".join([*([output.heading(head), *lines] if rows else []), summary]))
    report_killed(sent.killed)


def report_killed(killed: Sequence[output.Row]) -> None:
    """A line for each connection that was closed."""
    for row in killed:
        click.echo(f"closed {row['proto']} {row['client']} -> {row['server']}")
