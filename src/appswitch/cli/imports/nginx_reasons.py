"""Why directives of nginx become nothing."""

from __future__ import annotations

from appswitch.cli.imports import packetfilter, proxy
from appswitch.cli.imports.nginx_file import Directive
from appswitch.cli.imports.report import Report

NOTHING = "nothing corresponds to it"
ITSELF = "how nginx itself runs, which is not needed"
ANSWERS = "nobody answers in a server's place"
# Directives that become something, by their context.
_EVERYWHERE = ("allow", "deny", "proxy_connect_timeout")
_CHOOSING = ("upstream", "server", "map", "split_clients")
_PREREAD = ("ssl_preread", "preread_timeout", "preread_buffer_size")
TAKEN = {
    "http": (*_EVERYWHERE, *_CHOOSING),
    "server": (*_EVERYWHERE, "listen", "server_name", "location"),
    "location": (*_EVERYWHERE, "proxy_pass", "grpc_pass", "location"),
    "stream": (*_EVERYWHERE, *_CHOOSING, *_PREREAD),
    "stream server": (*_EVERYWHERE, *_PREREAD, "listen", "proxy_pass"),
}
# By how the directive begins; the first that fits.
_REASONS = (
    ("ssl_", proxy.NO_TLS),
    ("http2", proxy.NO_TLS),
    ("access_log", packetfilter.LOGGED),
    ("error_log", packetfilter.LOGGED),
    ("log_", packetfilter.LOGGED),
    ("proxy_set_header", "requests are not changed; servers see the client's own address"),
    ("proxy_ssl", proxy.NO_TLS),
    ("grpc_ssl", proxy.NO_TLS),
    (
        "proxy_next_upstream",
        "a connection that cannot be made goes to another backend; what it carries is not repeated",
    ),
    ("proxy_http_version", "requests are not changed"),
    ("proxy_cache", ANSWERS),
    ("proxy_", "data goes straight to the server: it is not buffered, timed or changed"),
    ("grpc_", "data goes straight to the server: it is not buffered, timed or changed"),
    ("gzip", "data is not changed"),
    ("sub_filter", "data is not changed"),
    ("add_header", "data is not changed"),
    ("expires", "data is not changed"),
    ("limit_conn", "limits are for each backend (max_conns), not for each client"),
    ("limit_re", "requests are not counted"),
    ("limit_rate", "data is not slowed"),
    ("auth_", "nobody is asked who he is"),
    ("satisfy", "nobody is asked who he is"),
    ("keepalive", "connections that stand are not timed"),
    ("client_", "data goes straight to the server: it is not buffered, timed or changed"),
    ("send", "data goes straight to the server: it is not buffered, timed or changed"),
    ("tcp_", ITSELF),
    ("types", ITSELF),
    ("default_type", ITSELF),
    ("server_tokens", ITSELF),
    ("resolver", proxy.NO_NAMES),
    ("geo", "where addresses are chooses no route"),
    ("rewrite", "requests are not changed"),
    ("if", "requests are not looked at but for routes"),
    ("set", "requests are not looked at but for routes"),
    ("root", ANSWERS),
    ("alias", ANSWERS),
    ("index", ANSWERS),
    ("try_files", ANSWERS),
    ("return", ANSWERS),
    ("error_page", ANSWERS),
    ("stub_status", ANSWERS),
    ("fastcgi_", "a backend speaks for itself: FastCGI is not made of HTTP"),
    ("uwsgi_", "a backend speaks for itself: uwsgi is not made of HTTP"),
    ("scgi_", "a backend speaks for itself: SCGI is not made of HTTP"),
    ("mirror", "data is not copied"),
)


def tell(context: Directive, kind: str, report: Report) -> None:
    """What of a context becomes nothing."""
    for one in context.inside:
        if one.name not in TAKEN[kind]:
            report.leave_out(one.where, one.text, reason(one.name))


def reason(name: str) -> str:
    """Why a directive is left out."""
    return next((why for begin, why in _REASONS if name.startswith(begin)), NOTHING)
