"""What is written down, by `ax import`, in the examples and in the documentation: `ax apply` reads and takes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.unit.control.conftest import Connect

from appswitch.cli import apply, documents

TESTS = Path(__file__).parents[2]
# What the samples become is compared with these by tests/unit/cli/imports.
IMPORTED = sorted((TESTS / "unit" / "cli" / "imports" / "samples").glob("*.yaml"))
EXAMPLES = sorted((TESTS.parent / "examples" / "services").glob("*.yaml"))
PAGES = [TESTS.parent / "README.md", *sorted((TESTS.parent / "docs").glob("*.md"))]
SHOWN = re.compile(r"(?:^\$ cat \S+\.yaml|^```yaml)\n((?:apiVersion|kind): .*?)^(?:```|\$ )", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("file", [*IMPORTED, *EXAMPLES], ids=lambda file: file.name)
async def test_files(connect: Connect, file: Path) -> None:
    found, broken = apply.read([str(file)])
    assert not broken
    await all_are_taken(connect, found)


async def all_are_taken(connect: Connect, found: list[documents.Document]) -> None:
    assert found
    bodies = [one.body for one in found]
    results = (await connect(uid=0).post("/v1/apply?dryRun=true", json=bodies)).json()["results"]
    complaints = [line for one, result in zip(found, results, strict=True) for line in apply.complaints(one, result)]
    assert not complaints
    assert {one["result"] for one in results} == {"created"}


async def test_examples_go_together(connect: Connect) -> None:
    found, _ = apply.read([str(EXAMPLES[0].parent)])
    for result in ("created", "unchanged"):
        answer = (await connect(uid=0).post("/v1/apply", json=[one.body for one in found])).json()
        assert {one["result"] for one in answer["results"]} == {result}
    files = {one.file for one in found}
    assert files == set(map(str, EXAMPLES))


async def test_what_pages_show(connect: Connect) -> None:
    shown = [
        (page.name, text) for page in PAGES for text in SHOWN.findall(page.read_text()) if "spec: ...\n" not in text
    ]
    assert {"README.md", "services.md", "policy.md"} <= {name for name, _ in shown}
    for name, text in shown:
        await all_are_taken(connect, documents.parse(text, name))
