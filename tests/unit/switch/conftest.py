"""What several of the tests here need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.unit.switch.fake import FakeSwitch


@pytest.fixture
def fake() -> Iterator[FakeSwitch]:
    one = FakeSwitch()
    yield one
    one.close()
