"""An unprivileged user for daemons and apps, with an interpreter and a copy of the package that it can reach.

The environment that the tests run in may lie in root's home. What a user could not reach is therefore copied to a
directory that all may read: the package with its native parts, and what it depends on.
"""

from __future__ import annotations

import importlib
import os
import shutil
import site
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self


class Rootless:
    """Use as a context manager: the copy lives as long."""

    def __init__(self, uid: int = 12345) -> None:
        self.uid = self.gid = uid
        self.python = _python()
        self._place = tempfile.TemporaryDirectory(prefix="axt-user-", dir="/tmp")
        self.place = Path(self._place.name)
        self.place.chmod(0o755)
        self.home = self.place / "home"
        self.home.mkdir()
        os.chown(self.home, uid, uid)
        self._path = [str(self.place / "lib")]
        self._copy(self.place / "lib")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._place.cleanup()

    def become(self) -> None:
        """In the child: give up root for good."""
        os.setgroups([])
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)

    def environment(self) -> dict[str, str]:
        """What differs from root's."""
        return {
            "PYTHONPATH": os.pathsep.join(self._path),
            "HOME": str(self.home),
            "USER": "tester",
            "XDG_RUNTIME_DIR": "",
            "PATH": "/usr/local/bin:/usr/bin:/bin",
        }

    def _copy(self, lib: Path) -> None:
        for packages in {*site.getsitepackages(), sysconfig.get_paths()["platlib"]}:
            if _reachable(Path(packages)):
                self._path.append(packages)
            elif Path(packages).is_dir():
                shutil.copytree(
                    packages,
                    lib,
                    dirs_exist_ok=True,
                    symlinks=True,
                    ignore=shutil.ignore_patterns("__pycache__", "*_editable_loader.py", "*editable*.pth"),
                )
        shutil.rmtree(lib / "appswitch", ignore_errors=True)
        package = importlib.import_module("appswitch").__file__
        kernel = importlib.import_module("appswitch._kernel").__file__
        assert package
        assert kernel
        shutil.copytree(Path(package).parent, lib / "appswitch", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(kernel, lib / "appswitch")
        for path in [lib, *lib.rglob("*")]:
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444))


def _reachable(path: Path) -> bool:
    """Whether any user may go there."""
    return path.is_dir() and all(one.stat().st_mode & 0o001 for one in (path, *path.parents))


def _python() -> str:
    """An interpreter of the same version that everyone may run; the present one when it will do."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (os.path.realpath(sys.executable), f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        path = Path(candidate)
        if path.exists() and _reachable(path.parent):
            return candidate
    raise RuntimeError(f"no {version} that an unprivileged user could run")
