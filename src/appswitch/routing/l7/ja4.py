"""JA4, FoxIO's fingerprint of a TLS client: which program it is, whatever name it asks for.

https://github.com/FoxIO-LLC/ja4/blob/main/technical_details/JA4.md
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from appswitch.routing.l7.hello import ALPN, SERVER_NAME, Hello

_VERSIONS = {0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3", 0x0002: "s2"}


def ja4(hello: Hello) -> str:
    """The fingerprint of a client that speaks TLS over TCP: "t13d1516h2_8daaf6152771_e5627efa2ab1"."""
    version = _VERSIONS.get(max(hello.versions, default=hello.legacy_version), "00")
    target = "d" if SERVER_NAME in hello.extensions else "i"
    counts = f"{min(len(hello.ciphers), 99):02}{min(len(hello.extensions), 99):02}"
    extensions = sorted(set(hello.extensions) - {SERVER_NAME, ALPN})
    algorithms = [_hex(hello.signature_algorithms)] if hello.signature_algorithms else []
    return "_".join(
        (
            f"t{version}{target}{counts}{_ends(hello.alpn)}",
            _hash(_hex(sorted(hello.ciphers))),
            _hash("_".join([_hex(extensions), *algorithms])) if extensions else _hash(""),
        )
    )


def _ends(alpn: Sequence[bytes]) -> str:
    """The first and the last character of the first protocol; of its hexadecimal form if one is no letter or digit."""
    if not alpn or not alpn[0]:
        return "00"
    first, last = alpn[0][:1], alpn[0][-1:]
    if first.isalnum() and last.isalnum():
        return (first + last).decode()
    return alpn[0].hex()[0] + alpn[0].hex()[-1]


def _hex(numbers: Sequence[int]) -> str:
    return struct.pack(f"!{len(numbers)}H", *numbers).hex(",", 2)


def _hash(listed: str) -> str:
    return hashlib.sha256(listed.encode()).hexdigest()[:12] if listed else "0" * 12
