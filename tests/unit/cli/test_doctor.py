"""``ax doctor`` and the probes under it."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from appswitch.cli import doctor
from appswitch.kernel import features, probes


def test_this_kernel_is_fit() -> None:
    """It is the one that all other tests run on."""
    found = {one.name: one for one in features.probe()}
    assert [one.name for one in found.values() if one.required and not one.found] == []
    assert found["kernel"].detail == os.uname().release
    assert found["64-bit architecture"].detail == platform.machine()
    assert all(one.detail and one.meaning for one in found.values())


def test_only_required() -> None:
    assert all(one.required for one in features.probe(only_required=True))


def test_probes_leave_nothing() -> None:
    """No child, no namespace, no filter, no descriptor."""

    def state() -> tuple[object, ...]:
        namespaces = [str(Path(f"/proc/self/ns/{name}").readlink()) for name in ("net", "user")]
        status = Path("/proc/self/status").read_text()
        filters = [line for line in status.splitlines() if line.startswith(("Seccomp", "NoNewPrivs"))]
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        return (
            namespaces,
            filters,
            len(list(Path("/proc/self/fd").iterdir())),
            children.read_text() if children.exists() else "",
        )

    before = state()
    features.probe()
    assert state() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_user_without_root_is_told_what_it_has() -> None:
    def as_nobody() -> str:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        probes._libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as after execve(2)
        return json.dumps([one._asdict() for one in features.probe()])

    there, text = probes.Isolated(as_nobody).result()
    assert there, text
    assert [one["name"] for one in json.loads(text) if one["required"] and not one["found"]] == []


def _deny(syscall: int) -> None:
    """From now on this process gets ENOSYS for a call, as on a kernel that lacks it."""
    program = b"".join(
        probes.struct.pack("HBBI", *one)
        for one in ((0x20, 0, 0, 0), (0x15, 0, 1, syscall), (0x06, 0, 0, 0x00050000 | 38), (0x06, 0, 0, 0x7FFF0000))
    )
    code = ctypes.create_string_buffer(program, len(program))
    fprog = ctypes.create_string_buffer(probes.struct.pack("HxxxxxxP", 4, ctypes.addressof(code)))
    probes._libc.prctl(38, 1, 0, 0, 0)
    assert probes._libc.prctl(22, 2, fprog, 0, 0) == 0


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("pidfd_getfd", "pidfd_getfd"),
        ("process_vm_readv", "process_vm_readv"),
        ("kcmp", "kcmp"),
        ("landlock_create_ruleset", "Landlock with TCP"),
        ("seccomp", "seccomp user notification"),
    ],
)
def test_what_a_kernel_lacks_is_found_missing(call: str, name: str) -> None:
    number = (probes._SYSCALLS[platform.machine()] | probes._COMMON)[call]

    def lacking() -> str:
        _deny(number)
        one = next(one for one in features.probe() if one.name == name)
        assert not one.found, one
        return one.detail

    there, detail = probes.Isolated(lacking).result()
    assert there, detail
    assert detail == os.strerror(38)


def test_a_probe_that_crashes_hangs_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "DEADLINE", 0.1)
    assert probes.Isolated(lambda: os.kill(os.getpid(), signal.SIGKILL) or "").result() == (
        False,
        "the probe died (-9)",
    )
    assert probes.Isolated(lambda: time.sleep(60) or "").result() == (False, "it hangs")
    assert probes.Isolated(lambda: str(1 // 0)).result()[1].startswith("ZeroDivisionError")
    assert probes.Isolated(lambda: "yes").result() == (True, "yes")


def test_works_where_the_build_is_broken(tmp_path: Path) -> None:
    """Neither the extension nor the launcher is needed."""
    program = (
        "import sys; sys.modules['appswitch._kernel'] = None; sys.argv = ['ax', 'doctor'];"
        "from appswitch.cli import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "AppSwitch works on this kernel for" in done.stdout


FOUND = features.Feature("one", True, True, "5.0", "seen", "good")
LACKING = features.Feature("two", False, False, "6.6", "refused", "slower")
FATAL = features.Feature("three", False, True, "5.14", "refused", "nothing works")


@pytest.mark.parametrize(("found", "status"), [([FOUND, LACKING], 0), ([FOUND, FATAL], 1)])
def test_output(monkeypatch: pytest.MonkeyPatch, found: list[features.Feature], status: int) -> None:
    monkeypatch.setattr(features, "probe", lambda: found)
    shown = CliRunner().invoke(doctor.command, [], standalone_mode=False)
    assert shown.return_value == status
    lines = shown.output.splitlines()
    assert lines[0].split() == ["found", "one", "Linux", "5.0", "seen"]
    assert lines[1].split()[0] == ("MISSING" if status else "missing")
    assert "refused; " in lines[1]
    assert ("does not work" in lines[2]) == bool(status)
    document = json.loads(CliRunner().invoke(doctor.command, ["-o", "json"], standalone_mode=False).output)
    assert document["fit"] is (status == 0)
    assert document["features"][0]["name"] == "one"
