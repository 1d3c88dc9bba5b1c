"""Programs that know of proxies hand their own sockets over, and go on without them.

All wait for the proxy's answer (in a program of asyncio call them by ``asyncio.to_thread``), and raise `RefusedError`
when it is no, TimeoutError when there is none, and OSError where no daemon is. Then every socket is still the caller's.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence

from appswitch.address import Address
from appswitch.delegate import messages, packets
from appswitch.delegate.errors import MalformedError, Reason, RefusedError
from appswitch.delegate.metadata import Metadata
from appswitch.paths import RunDir, run_dir


def delegate(  # noqa: PLR0913 - what is known of a connection, each by its name
    sock: socket.socket,
    proxy: str,
    *,
    remote: socket.socket | None = None,
    source: Address | None = None,
    destination: Address | None = None,
    attributes: Mapping[str, str] | None = None,
    directory: str | os.PathLike[str] | None = None,
    timeout: float = 10.0,
) -> None:
    """Give connected stream sockets to a proxy; they are closed here when it has taken them.

    ``sock`` alone: the proxy serves who is at its other end, as if that had connected to ``destination``. With
    ``remote``, which is the connection to a remote client: the proxy stands between that and ``sock``'s other end.
    Addresses that are not given are those of ``remote`` or else ``sock``. ``attributes`` tell more, as docs/l7.md
    names it. ``directory`` is the daemon's, by default ``$AX_RUN_DIR``; ``timeout`` in seconds.
    """
    client = remote or sock
    metadata = Metadata(
        connection=0,
        direction="server" if remote else "client",
        source=source or packets.address(client.getpeername()),
        destination=destination or packets.address(client.getsockname()),
        proxy=proxy,
        attributes=dict(attributes or {}),
    )
    sockets = [sock, remote] if remote else [sock]
    place = run_dir() if directory is None else RunDir(directory)
    _offer(os.fspath(place.delegate), messages.Offer(metadata), sockets, timeout)
    packets.close(sockets)


def connect(
    destination: Address,
    proxy: str,
    *,
    source: Address | None = None,
    attributes: Mapping[str, str] | None = None,
    directory: str | os.PathLike[str] | None = None,
    timeout: float = 10.0,
) -> socket.socket:
    """A connection to a proxy that was told ``destination``: instead of one's own to there."""
    ours, theirs = socket.socketpair()
    source = source or Address(bytes(len(destination.ip)), 0)
    try:
        delegate(
            theirs,
            proxy,
            source=source,
            destination=destination,
            attributes=attributes,
            directory=directory,
            timeout=timeout,
        )
    except BaseException:
        packets.close((ours, theirs))
        raise
    return ours


def wrap(
    sock: socket.socket,
    proxy: str,
    *,
    attributes: Mapping[str, str] | None = None,
    directory: str | os.PathLike[str] | None = None,
    timeout: float = 10.0,
) -> socket.socket:
    """Put a proxy in front of a connection that was accepted: use what is returned instead of ``sock``."""
    ours, theirs = socket.socketpair()
    try:
        delegate(theirs, proxy, remote=sock, attributes=attributes, directory=directory, timeout=timeout)
    except BaseException:
        packets.close((ours, theirs))
        raise
    return ours


def _offer(path: str, offer: messages.Offer, sockets: Sequence[socket.socket], timeout: float) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        link.settimeout(timeout)
        link.connect(path)
        packets.send(link, messages.encode(offer), sockets)
        packet, strays = _answer(link)
        packets.close(strays)
    if not packet:
        raise RefusedError(Reason.OTHER, "the daemon went")
    answer = messages.decode_from_daemon(packet, len(strays))
    if isinstance(answer, messages.Refused):
        raise RefusedError(answer.reason, answer.detail)
    if not isinstance(answer, messages.Taken):
        raise MalformedError(f"{type(answer).__name__} instead of an answer")


def _answer(link: socket.socket) -> tuple[bytes, list[socket.socket]]:
    """Takes the offer back when there is none, so that not two have the sockets: raises TimeoutError then."""
    try:
        return packets.receive(link)
    except TimeoutError:
        link.shutdown(socket.SHUT_RDWR)  # from here on the daemon cannot say yes; it may have, just now
        answer = packets.receive(link)
        if not answer[0]:
            raise
        return answer
