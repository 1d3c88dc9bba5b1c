"""The examples of services are taken as they are."""

from __future__ import annotations

import json
from pathlib import Path

from e2e.services import Services

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "services"


def test_all_of_them_can_be_applied(services: Services) -> None:
    told = services.daemon.ax("apply", "-f", str(EXAMPLES), "-o", "json", check=True)
    results = json.loads(told.stdout)["results"]
    assert {row["result"] for row in results} == {"created"}, told
    assert len(results) >= len(list(EXAMPLES.glob("*.yaml")))
    again = services.daemon.ax("apply", "-f", str(EXAMPLES), "-o", "json", check=True)
    assert {row["result"] for row in json.loads(again.stdout)["results"]} == {"unchanged"}
