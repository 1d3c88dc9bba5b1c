"""An HTTP client that asks for the URLs on its standard input, on a new connection each, and prints the bodies."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request

for line in sys.stdin:
    try:
        with urllib.request.urlopen(line.strip(), timeout=10) as answer:
            print(answer.read().decode(), flush=True)
    except OSError as problem:
        print(problem, flush=True)
