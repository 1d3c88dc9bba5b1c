"""A held connection whose backend is not on this host: the switch connects there, and the splicer carries the bytes.

The client's socket cannot become another one any more (nobody waits in a call), so this is the one case of TCP in which
data passes through a process of ours; it is counted, and shown as ``splice``.
"""

from __future__ import annotations

import errno
import select
from typing import TYPE_CHECKING

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import Address
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6
from appswitch.resources import BackendSpec, Outlier
from appswitch.routing.clusters import Upstream
from appswitch.routing.route import Balanced, Outside
from appswitch.switch.census import Led
from appswitch.switch.dial import Dial
from appswitch.switch.held import Held
from appswitch.switch.loop import Timer

if TYPE_CHECKING:
    from appswitch.switch.core import Switch

_STREAM, _NONBLOCK = 1, 0o4000
_UNNAMED = BackendSpec()


class Outbound:
    """One attempt to connect, from its beginning until the splicer has it."""

    def __init__(self, switch: Switch, fd: Fd, held: Held, verdict: Balanced | Outside, dial: Dial | None) -> None:
        self._switch = switch
        self._fd = fd
        self._held = held
        self._verdict = verdict
        self._dial = dial
        self._tcp: Fd | None = None
        self._where = b""
        self._to = verdict.to
        self._timer: Timer | None = None
        outlier = verdict.cluster.outlier if isinstance(verdict, Balanced) else Outlier()
        self._patience = outlier.connect_timeout

    def go(self, to: Address) -> int:
        """Begin to connect. 0, and it goes on by itself; or an errno, and the client's socket is still the caller's."""
        self._to = to
        family = AF_INET if len(to.ip) == 4 else AF_INET6
        try:
            self._tcp = _kernel.socket(family, _STREAM | _NONBLOCK, 0)
        except OSError as problem:
            return problem.errno or errno.EMFILE
        self._where = sockaddr.encode(family, to)
        error = _kernel.connect(self._tcp, self._where)
        self._switch.comers.expect(self._tcp, to, error, self._held.flow)
        if error not in (0, errno.EINPROGRESS):
            return error
        self._switch.census.outbound[self._led()] += 1
        self._timer = self._switch.loop.after(self._patience, lambda: self._failed(errno.ETIMEDOUT))
        self._switch.loop.watch(self._tcp, select.EPOLLOUT, lambda _events: self._look())
        return 0

    def _look(self) -> None:
        assert self._tcp is not None
        error = _kernel.connect(self._tcp, self._where)
        if error in (0, errno.EISCONN):
            self._connected()
        elif error != errno.EALREADY:
            self._failed(error)

    def _stop(self) -> Fd | None:
        tcp, self._tcp = self._tcp, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if tcp is not None:
            self._switch.loop.unwatch(tcp)
            outbound, led = self._switch.census.outbound, self._led()
            outbound[led] -= 1
            if not outbound[led]:
                del outbound[led]
        return tcp

    def _led(self) -> Led:
        return id(self._verdict.cluster) if isinstance(self._verdict, Balanced) else 0, self._to

    def _connected(self) -> None:
        tcp = self._stop()
        assert tcp is not None
        if self._dial is not None:
            self._dial.succeeded()
            upstream = self._dial.current
        else:
            upstream = Upstream(self._to, None, (), _UNNAMED)
        assert upstream is not None
        held, log = self._held, self._switch.flowlog
        cluster = self._verdict.cluster if isinstance(self._verdict, Balanced) else None
        try:
            self._switch.splice(held, cluster, upstream.address, self._fd, tcp)
        except OSError as problem:
            log.refused(held.flow, held.client, self._verdict, problem.errno or errno.EIO, "")
        else:
            log.allowed(held.flow, held.client, self._verdict, upstream, "splice", held.since)

    def _failed(self, error: int) -> None:
        """Another backend has its turn, if there is one. Called by the loop: nothing nests, however many fail."""
        self._stop()
        holding, dial = self._switch.holding, self._dial
        if dial is None:
            holding.refuse(self._fd, self._held, self._verdict, error, "")
            return
        dial.failed(error)
        holding.retry(self._fd, self._held, dial, dial.next())
