"""Where the switch itself listens: a loopback address of the host's."""

from __future__ import annotations

import errno

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import LOOPBACK4, LOOPBACK6, Actual, Address
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET, AF_INET6


def bind_to_loopback(fd: Fd, family: int) -> int:
    """Any free port there. 0, or an errno of bind(2).

    A host may have IPv6 and no ::1 (net.ipv6.conf.lo.disable_ipv6): its IPv6 sockets reach 127.0.0.1 as well, but for
    those with IPV6_V6ONLY, which have nowhere to go.
    """
    error = _kernel.bind(fd, sockaddr.encode(family, Actual(Address(LOOPBACK4 if family == AF_INET else LOOPBACK6, 0))))
    if error == errno.EADDRNOTAVAIL and family == AF_INET6:
        error = _kernel.bind(fd, sockaddr.encode(family, Actual(Address(LOOPBACK4, 0))))
    return error
