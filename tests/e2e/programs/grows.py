"""Takes a line "MEGABYTES" or "detach" from standard input at a time, and answers it when that is done."""

from __future__ import annotations

import os
import sys

kept = []
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "detach":
        if os.fork() == 0:  # its parent ends: init's, in a session of its own
            os.setsid()
            if os.fork():
                os._exit(0)
            sys.stdin.read()
            os._exit(0)
        os.wait()
    else:
        kept.append(b"x" * (int(line) << 20))
    print("done", line.strip(), flush=True)
