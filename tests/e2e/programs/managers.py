"""multiprocessing.connection: server PORT, or client HOST PORT COUNT. Authenticated, pickled objects over a socket."""

from __future__ import annotations

import sys
from multiprocessing.connection import Client, Listener

KEY = b"secret"

if sys.argv[1] == "server":
    with Listener(("0.0.0.0", int(sys.argv[2])), authkey=KEY, backlog=16) as listener:
        while True:
            with listener.accept() as connection:
                peer = listener.last_accepted
                while (thing := connection.recv()) is not None:
                    connection.send({"peer": peer[0] if peer else None, "thing": thing})
else:
    for number in range(int(sys.argv[4])):
        with Client((sys.argv[2], int(sys.argv[3])), authkey=KEY) as connection:
            connection.send([number, "x" * 100_000])
            answer = connection.recv()
            assert answer["thing"] == [number, "x" * 100_000]
            connection.send(None)
            if number == 0:
                print(answer["peer"])
    print("done", sys.argv[4])
