"""What is wrong with a request, field by field, in words that help."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Path = Sequence[str | int]

_known_fields: set[str] = set()  # of all documents: what may have been meant


def know(fields: Iterable[str]) -> None:
    """Words that are suggested for one that is none."""
    _known_fields.update(fields)


def fault(error: Mapping[str, Any]) -> dict[str, Any]:
    """Path and detail of one of pydantic's errors, in our validators' own words where they are ours."""
    path = [part for part in error["loc"] if part not in ("__root__", "[key]")]
    return {"path": path, "detail": _detail(error, path)}


def _detail(error: Mapping[str, Any], path: Path) -> str:
    cause = error.get("ctx", {}).get("error")
    if cause is not None:
        return str(cause)
    if error["type"] == "extra_forbidden":
        word = str(path[-1])
        near = difflib.get_close_matches(word, _known_fields - {word}, 1)  # it may be one elsewhere
        return "there is no such field here" + (f": did you mean {near[0]}?" if near else "")
    return str(error["msg"])


def text(faults: Iterable[Mapping[str, Any]]) -> str:
    """All of them in one line."""
    return "; ".join(f"{dotted(one['path'])}: {one['detail']}" if one["path"] else one["detail"] for one in faults)


def dotted(path: Path) -> str:
    """``spec.backends.0.ip``."""
    return ".".join(str(part) for part in path)
