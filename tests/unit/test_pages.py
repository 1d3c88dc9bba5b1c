"""The pages of the repository lead to what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
NAMED = re.compile(r"\bdocs/[\w./-]+\.md\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    text = page.read_text()
    linked = [page.parent / link for link in LINK.findall(text)]
    named = [ROOT / name for name in NAMED.findall(text)]
    assert [str(one) for one in (*linked, *named) if not one.exists()] == []


def test_pages_that_sources_name() -> None:
    """In helps, comments and docstrings."""
    sources = [*ROOT.glob("src/**/*.py"), *ROOT.glob("native/**/*.[ch]"), *ROOT.glob("examples/**/*.*")]
    named = {(name, source) for source in sources for name in NAMED.findall(source.read_text(errors="replace"))}
    assert named
    assert [(name, str(source)) for name, source in named if not (ROOT / name).exists()] == []


def test_modules_that_the_architecture_names() -> None:
    """Each is there: by its path, or as a file of some package of ours or of the C."""
    named = set(re.findall(r"`?([\w/]+\.(?:py|c))\b", (ROOT / "ARCHITECTURE.md").read_text()))
    there = [path.as_posix() for kind in ("src/**/*.py", "native/**/*.c", "tests/**/*.py") for path in ROOT.glob(kind)]
    assert len(named) > 60
    assert [name for name in sorted(named) if not any(path.endswith(f"/{name}") for path in there)] == []


def test_readme_leads_to_every_page_for_users() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in ROOT.glob("docs/*.md") if f"(docs/{page.name})" not in readme] == []
