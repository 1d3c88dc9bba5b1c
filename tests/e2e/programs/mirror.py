"""An HTTP server that says what it was asked: NAME PORT. In JSON its name, who asked, the path, the headers.

The first request for a path under /once/ is answered with 503.
"""

from __future__ import annotations

import json
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME, PORT = sys.argv[1], int(sys.argv[2])
asked: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        again = not self.path.startswith("/once/") or self.path in asked
        asked.add(self.path)
        headers = {key.lower(): value for key, value in self.headers.items()}
        told = {"name": NAME, "client": self.client_address[0], "path": self.path, "headers": headers}
        body = json.dumps(told).encode()
        self.send_response(200 if again else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True
    request_queue_size = 128

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


Server(("::", PORT), Handler).serve_forever()
