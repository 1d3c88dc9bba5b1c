"""A gRPC service on grpcio, without generated code. serve PORT: each call is answered with the process that served it.

load HOST:PORT CHANNELS CALLS: CHANNELS connections, CALLS on each. Prints a line of JSON: who answered, by channel.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from concurrent import futures

import grpc

METHOD = "/test.Greeter/Who"


def who(_request: bytes, _context: grpc.ServicerContext) -> bytes:
    return str(os.getpid()).encode()


def serve(port: str) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    handlers = {"Who": grpc.unary_unary_rpc_method_handler(who)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Greeter", handlers)])
    assert server.add_insecure_port(f"0.0.0.0:{port}")
    signal.signal(signal.SIGTERM, lambda *_: server.stop(0))
    server.start()
    server.wait_for_termination()


def load(target: str, channels: str, calls: str) -> None:
    told = []
    for _ in range(int(channels)):
        # A pool of its own: channels to one target share a connection otherwise.
        with grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = channel.unary_unary(METHOD)
            told.append([call(b"", timeout=15).decode() for _ in range(int(calls))])
    print(json.dumps(told))


{"serve": serve, "load": load}[sys.argv[1]](*sys.argv[2:])
