"""What an installation consists of, and what a machine is told that cannot build it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import struct
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

import appswitch

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = Path(str(files("appswitch")))
ELF_MACHINE = {"x86_64": 62, "aarch64": 183}
PT_INTERP = 3


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    meson = re.search(r"\bversion: '(.*)'", (ROOT / "meson.build").read_text())
    assert meson
    assert {project["version"], meson[1], importlib.metadata.version("appswitch")} == {appswitch.__version__}


def test_what_is_tested_is_this_source() -> None:
    """A package that was installed from older sources would make every other test meaningless."""
    listed = subprocess.run(
        [sys.executable, ROOT / "scripts/sources.py"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "appswitch/py.typed" in listed
    stale = [
        name
        for name in listed
        if not (INSTALLED.parent / name).is_file()
        or (INSTALLED.parent / name).read_bytes() != (ROOT / "src" / name).read_bytes()
    ]
    assert not stale, "run `make setup`"


@pytest.mark.parametrize("name", ["ax-launch", "ax-splice"])
def test_programs_are_static_and_executable(name: str) -> None:
    program = INSTALLED / "_bin" / name
    assert os.access(program, os.X_OK)
    image = program.read_bytes()
    assert image[:5] == b"\x7fELF\x02"
    (machine,) = struct.unpack_from("=H", image, 18)
    (table,) = struct.unpack_from("=Q", image, 32)
    size, count = struct.unpack_from("=HH", image, 54)
    kinds = [struct.unpack_from("=I", image, table + size * index)[0] for index in range(count)]
    assert machine == ELF_MACHINE[platform.machine()]
    assert kinds
    assert PT_INTERP not in kinds, "a dynamic loader would be needed"


def test_the_extension_serves_every_python_from_3_11_on() -> None:
    assert [path.name for path in INSTALLED.glob("_kernel*.so")] == ["_kernel.abi3.so"]


def test_the_command_is_there() -> None:
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="ax")
    assert entry.value == "appswitch.cli:main"
    assert (Path(sys.executable).parent / "ax").is_file()


def test_the_licence_is_installed() -> None:
    distribution = importlib.metadata.distribution("appswitch")
    assert distribution.metadata["License-Expression"] == "Apache-2.0"
    assert any(path.name == "LICENSE" for path in distribution.files or [])


@pytest.mark.parametrize("compiler", ["no-such-compiler", None])
def test_without_a_compiler_the_message_says_what_to_install(tmp_path: Path, compiler: str | None) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "ninja").symlink_to(Path(sys.executable).parent / "ninja")
    env = {"PATH": str(tools)} | ({"CC": compiler} if compiler else {})
    meson = [sys.executable, "-m", "mesonbuild.mesonmain", "setup", str(tmp_path / "build"), str(ROOT)]
    done = subprocess.run(meson, env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "needs a C compiler" in done.stdout
    assert "apt install gcc libc6-dev" in done.stdout
