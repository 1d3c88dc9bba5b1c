"""What can be wrong with bytes of the other side, and the answer that is no."""

from __future__ import annotations

import enum


class MalformedError(ValueError):
    """Bytes that are no header or no message. All that the decoders of this package raise is one of these."""


class IncompleteError(MalformedError):
    """A header that goes on beyond the bytes that are there. From a stream: read more and decode again."""


class VersionError(MalformedError):
    """Another version of the protocol (``version``, where it was a message's), or of the metadata."""

    def __init__(self, detail: str, version: int = 0) -> None:
        super().__init__(detail)
        self.version = version


class Reason(enum.IntEnum):
    """Why the daemon refused. A number that is not here is read as ``OTHER``."""

    OTHER = 0
    VERSION = 1  # it speaks another version of the protocol
    UNKNOWN = 2  # no proxy of that name is configured
    PERMISSION = 3  # not yours: SO_PEERCRED
    CONNECTED = 4  # somebody is connected under this name
    AWAY = 5  # nobody is connected under this name
    FULL = 6  # the proxy has as many connections as it takes
    DECLINED = 7  # the proxy does not want it
    TIMEOUT = 8  # the proxy did not answer in time
    MALFORMED = 9  # what was sent, or which descriptors came with it
    LOOP = 10  # the proxy has had this connection before
    GONE = 11  # who offered it has gone, or taken it back

    @classmethod
    def _missing_(cls, value: object) -> Reason:
        return cls.OTHER


class RefusedError(Exception):
    """The daemon said no. ``detail`` is for people."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.name.lower()}: {self.detail}" if self.detail else self.reason.name.lower()
