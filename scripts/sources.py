"""Print every source file of the package, relative to src/, for src/meson.build: nothing cached, nothing compiled."""

from pathlib import Path

SRC = Path(__file__).resolve().parent.parent / "src"
GENERATED_DIRS = {"__pycache__", "_bin"}
SUFFIXES = {".py", ".pyi", ".html", ".css", ".js", ".svg", ".json", ".yaml"}

for path in sorted((SRC / "appswitch").rglob("*")):
    relative = path.relative_to(SRC)
    wanted = path.name == "py.typed" or path.suffix in SUFFIXES
    if wanted and not GENERATED_DIRS.intersection(relative.parts):
        print(relative.as_posix())
