"""What the conformance and end-to-end tests share: daemons, apps under ``ax run``, conditions with deadlines.

Nothing here sleeps for a fixed time: every wait is for a condition, with a deadline (`wait_until`). Everything that
is started carries a mark in its environment (`marks`), so that what a test leaves behind is found wherever it hides.
"""

from harness.addresses import Addresses, free_port
from harness.app import App
from harness.daemon import Daemon
from harness.marks import marked, reap
from harness.rootless import Rootless
from harness.waiting import DeadlineError, wait_until

__all__ = ["Addresses", "App", "Daemon", "DeadlineError", "Rootless", "free_port", "marked", "reap", "wait_until"]
