"""The programs that do the work: ours, compiled once for the same sources, and those of the distribution."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from bench.processes import UnavailableError

SOURCES = Path(__file__).parent / "c"
BUILD = Path(__file__).parents[2] / "build" / "bench-mesh"
HINT = "as root on Debian or Ubuntu `scripts/debian.sh --mesh` installs what it needs"
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"

C = [os.environ.get("CC", "cc"), "-std=gnu11", "-O2", "-pthread"]
CXX = [os.environ.get("CXX", "c++"), "-std=c++20", "-O2", "-pthread"]

# How each says its version.
VERSIONS = {
    "envoy": ["envoy", "--version"],
    "gRPC": ["pkg-config", "--modversion", "grpc++"],
    "libmemcached": ["pkg-config", "--modversion", "libmemcached"],
    "memcached": ["memcached", "--version"],
    "redis": ["redis-server", "--version"],
    "nginx": ["nginx", "-v"],
    "iperf3": ["iperf3", "--version"],
    "iptables": ["iptables", "--version"],
    "iproute2": ["ip", "-V"],
}


def program(name: str) -> str:
    """The path of one of the distribution's. Raises UnavailableError."""
    found = shutil.which(name, path=PATH)
    if found is None:
        raise UnavailableError(f"{name} is not installed")
    return found


@functools.cache
def compiled(name: str) -> str:
    """The path of one of ours, compiled if it has not been. Raises UnavailableError."""
    place = BUILD / _fingerprint()
    target = place / name
    if not target.exists():
        place.mkdir(parents=True, exist_ok=True)
        _compile(name, place)
    return str(target)


def _fingerprint() -> str:
    data = b"".join(path.name.encode() + path.read_bytes() for path in sorted(SOURCES.iterdir()))
    return hashlib.sha256(data + repr((C, CXX)).encode()).hexdigest()[:12]


def _compile(name: str, place: Path) -> None:
    """Into a file that gets its name when it is whole: two runs may do it at a time."""
    half = place / f"{name}.{os.getpid()}"
    if (SOURCES / f"{name}.c").exists():
        libraries = ["-lmemcached"] if name.startswith("memcached") else []
        _run(name, *C, str(SOURCES / f"{name}.c"), "-o", str(half), *libraries)
    else:
        plugin = f"--plugin=protoc-gen-grpc={shutil.which('grpc_cpp_plugin') or 'grpc_cpp_plugin'}"
        _run(name, "protoc", f"-I{SOURCES}", f"--cpp_out={place}", f"--grpc_out={place}", plugin, "echo.proto")
        flags = _run(name, "pkg-config", "--cflags", "--libs", "grpc++", "protobuf").split()
        sources = [SOURCES / f"{name}.cc", place / "echo.pb.cc", place / "echo.grpc.pb.cc"]
        _run(name, *CXX, f"-I{place}", f"-I{SOURCES}", *map(str, sources), "-o", str(half), *flags)
    half.rename(place / name)


def _run(name: str, *words: str) -> str:
    try:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout
    except OSError as problem:
        raise UnavailableError(f"{name} cannot be compiled: {words[0]}: {problem.strerror}; {HINT}") from None
    except subprocess.CalledProcessError as failed:
        lines = failed.stderr.strip().splitlines()
        error = next((line for line in lines if "error" in line), lines[-1] if lines else "")
        raise UnavailableError(f"{name} cannot be compiled: {error.strip()}; {HINT}") from None


def versions(envoy: str) -> dict[str, str]:
    """Of every program that takes part; those that are not there are left out. ``envoy``: its path, or empty."""
    found = {}
    for name, (first, *rest) in VERSIONS.items():
        path = envoy if name == "envoy" else shutil.which(first, path=PATH)
        if path:
            done = subprocess.run([path, *rest], capture_output=True, text=True, check=False)
            found[name] = version(done.stdout + done.stderr)
    return {name: text for name, text in found.items() if text}


def version(text: str) -> str:
    """The first number with dots in what a program says of itself: `1.40.0` of `.../1.40.0/Clean/RELEASE`."""
    match = re.search(r"(?<![\w.])v?(\d+\.\d+(?:\.\d+)*)", text)
    return match[1] if match else ""
