"""names.py libc|dnspython SERVER-NAME IPV4: what it resolves to, and a page by name."""

from __future__ import annotations

import socket
import sys
import urllib.request


def libc(name: str, address: str) -> None:
    found = {str(info[4][0]) for info in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)}
    print("host", ",".join(sorted(found)))
    print("ptr", socket.gethostbyaddr(address)[0])


def dnspython(name: str, address: str) -> None:
    import dns.resolver

    for tcp in (False, True):
        found = [one.address for kind in ("A", "AAAA") for one in dns.resolver.resolve(name, kind, tcp=tcp)]
        print("host", ",".join(sorted(found)))
        print("ptr", str(dns.resolver.resolve_address(address, tcp=tcp)[0]).rstrip("."))
        for one in dns.resolver.resolve(f"_80._tcp.{name}", "SRV", tcp=tcp):
            print("srv", str(one.target).rstrip("."), one.port)


if __name__ == "__main__":
    {"libc": libc, "dnspython": dnspython}[sys.argv[1]](*sys.argv[2:])
    with urllib.request.urlopen(f"http://{sys.argv[2]}/", timeout=10) as page:
        print("get", page.read().decode(), end="")
