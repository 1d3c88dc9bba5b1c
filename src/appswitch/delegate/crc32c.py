"""CRC32C, the checksum of Castagnoli: RFC 4960 appendix B. Python's zlib has another polynomial."""

from __future__ import annotations

import functools

_POLYNOMIAL = 0x82F63B78  # 0x1EDC6F41 with its bits reversed


@functools.cache
def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)  # noqa: PLW2901 - shifted through
        table.append(value)
    return tuple(table)


def crc32c(data: bytes) -> int:
    """About 10 MB a second: what a hostile peer may have computed must be short."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF
