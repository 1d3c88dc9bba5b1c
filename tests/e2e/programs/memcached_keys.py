"""A stock memcached client, pymemcache: SERVER PORT ROUNDS KEY... A fresh connection for each key, ROUNDS times.

Prints a line of JSON: the server processes that each key was found on.
"""

from __future__ import annotations

import json
import sys

from pymemcache.client.base import Client

SERVER, PORT, ROUNDS, KEYS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]

found: dict[str, list[int]] = {}
for number in range(ROUNDS):
    for key in KEYS:
        client = Client((SERVER, PORT), connect_timeout=10, timeout=10)
        if number:
            assert client.get(key) == f"value of {key}".encode(), key
        else:
            client.set(key, f"value of {key}", noreply=False)
        found.setdefault(key, []).append(int(client.stats()[b"pid"]))
        client.close()
print(json.dumps(found))
