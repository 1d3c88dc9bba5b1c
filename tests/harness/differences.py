"""What legitimately differs between a Unix socket that is dressed as TCP and TCP itself, and why."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

UNIX = ("unix",)
TWO = ("ip4", "ip6", "mapped")
TCP = ("tcp",)


@dataclass(frozen=True)
class Difference:
    """In one section, lines that are other under ``ax``. Each pair is (the bare line, the line under ax).

    Several pairs with one bare line are for where it comes first, second and so on.
    """

    probe: str
    section: str
    why: str
    lines: Sequence[tuple[str, str]]
    transports: tuple[str, ...] = ("unix", "tcp")
    places: tuple[str, ...] = ("lo4", "lo6", "ip4", "ip6")


class Differences:
    """The list. A line that is expected to differ and does not is a failure, too: the list stays true."""

    def __init__(self, *all_of_them: Difference) -> None:
        self._known = {
            (one.probe, one.section, place, transport): one
            for one in all_of_them
            for place in one.places
            for transport in one.transports
        }

    def expected(self, probe: str, section: str, place: str, transport: str, bare: str) -> str:
        """What the section should print under ``ax``, given what it prints bare."""
        known = self._known.get((probe, section, place, transport))
        if known is None:
            return bare
        lines = bare.splitlines()
        for old, _ in known.lines:
            assert old in lines, f"{probe} {section}: {old!r} is not what it prints bare:\n{bare}"
        for old in {old: None for old, _ in known.lines}:
            given = [new for bare_line, new in known.lines if bare_line == old]
            others = iter(given) if len(given) > 1 else itertools.repeat(given[0])
            lines = [next(others, line) if line == old else line for line in lines]
        return "".join(f"{line}\n" for line in lines)


HUNG_UP = "unix_poll() says HUP as soon as the peer has closed; TCP, which cannot know, only when both ends have"
NO_RESET = "a Unix socket has no RST: SO_LINGER 0 closes like any other close"
AT_ONCE = "a Unix socket knows at once what TCP learns from the answer to its first segment"
UNCONNECTED = "read(2) and write(2) are never intercepted: an unconnected AF_UNIX socket answers with its own errno"
NO_ZEROCOPY = "there are no segments whose sending could be reported: refused, so that nobody waits for reports"
NOT_SEEN = (
    "recvfrom(2) is the data path; sendmsg(2) and recvmsg(2) hide the address behind a pointer, too: never intercepted"
)
NOT_INTERCEPTED = (
    "shutdown(2) is on the way of every connection: never intercepted. An AF_UNIX socket takes it in any state"
)
QUIRK = "what the kernel's TCP happens to say, and nobody asks"
SWAPPED = "a TCP-only app's server gets a Unix socket in bind(2): a copy in another process keeps the old file"
STAYS_BEHIND = (
    "a UDP socket moves for the process that used it: a copy that was sent to another one stays (docs/limits.md)"
)
NOT_IN_WINDOW = "sendmsg(2) is seen by descriptors of a window only; others send to nobody over IPv4 (docs/limits.md)"
MARKED = "packets of UDP sockets carry a mark, for which any address is local: native/launcher.c, steer_udp()"
NO_ERROR_QUEUE = "unix_stream_recvmsg() does not look at MSG_ERRQUEUE, and nothing is ever reported there"
NO_SEGMENTS = "there are no segments that could be filled: what is written is there at once"
NO_ADDRESS_FORM = "a Unix socket has no IPv6 part that could be taken off; programs then go on with IPv6"
NO_LOW_WATER = "poll(2) is never intercepted, and unix_poll() does not look at SO_RCVLOWAT"


def _zerocopy(section: str, *transports: str) -> Difference:
    return Difference(
        "options.c",
        section,
        NO_ZEROCOPY,
        [
            ("SO_ZEROCOPY 1: 0, then 1 in 4 bytes", "SO_ZEROCOPY 1: EOPNOTSUPP, then 0 in 4 bytes"),
            ("SO_ZEROCOPY 2: EINVAL, then 1 in 4 bytes", "SO_ZEROCOPY 2: EOPNOTSUPP, then 0 in 4 bytes"),
        ],
        transports,
    )


DIFFERENT = Differences(
    Difference("accept.c", "reset_before_accept", NO_RESET, [("read: ECONNRESET", "read: 0")], UNIX),
    Difference("closing.c", "both", HUNG_UP, [("server: IN|RDHUP", "server: IN|HUP|RDHUP")], UNIX),
    Difference("closing.c", "close_is_seen", HUNG_UP, [("readable: IN|RDHUP", "readable: IN|HUP|RDHUP")], UNIX),
    Difference("closing.c", "first_write_to_a_closed_one", AT_ONCE, [("write: 1", "write: EPIPE")], UNIX),
    Difference(
        "closing.c", "hangup_of_a_closed_one", HUNG_UP, [("poll: IN|OUT|RDHUP", "poll: IN|OUT|HUP|RDHUP")], UNIX
    ),
    Difference("closing.c", "killed_process_closes", HUNG_UP, [("poll: IN|RDHUP", "poll: IN|HUP|RDHUP")], UNIX),
    Difference(
        "closing.c", "last_of_several_holders", HUNG_UP, [("none left: IN|RDHUP", "none left: IN|HUP|RDHUP")], UNIX
    ),
    Difference(
        "closing.c",
        "linger_zero",
        NO_RESET,
        [("its peer's name: ENOTCONN", "its peer's name: 0"), ("read: ECONNRESET", "read: 0")],
        UNIX,
    ),
    Difference(
        "closing.c",
        "writing_to_one_that_shut_reading",
        AT_ONCE,
        [("the peer writes: 1", "the peer writes: EPIPE")],
        UNIX,
    ),
    Difference(
        "closing.c",
        "shutdown_unconnected",
        NOT_INTERCEPTED,
        [("fresh: ENOTCONN", "fresh: 0"), ("bound: ENOTCONN", "bound: 0")],
        UNIX,
    ),
    Difference("closing.c", "shutdown_unconnected", NOT_INTERCEPTED, [("bound: ENOTCONN", "bound: 0")], TCP),
    Difference(
        "closing.c",
        "shutdown_a_listening_socket",
        NOT_INTERCEPTED,
        [("accepting 0", "accepting 1"), ("poll: OUT|HUP", "poll: IN|HUP|RDHUP"), ("again: ENOTCONN", "again: 0")],
    ),
    Difference("connect.c", "disconnect", NO_RESET, [("the server sees: IN|ERR|HUP", "the server sees: IN|HUP")], UNIX),
    Difference("listen.c", "shutdown_then_listen_again", NOT_INTERCEPTED, [("accepting: 0", "accepting: 1")]),
    Difference(
        "data.c",
        "address_of_a_stream",
        NOT_SEEN,
        [("length is 0: 1, touched 0", "length is 0: 0, touched 1"), ("length is 0: 1", "length is 0: 0")],
        UNIX,
    ),
    Difference("data.c", "address_of_a_message", NOT_SEEN, [("length is 0: 1", "length is 0: 0")], UNIX),
    Difference("data.c", "descriptors_do_not_travel", NOT_SEEN, [("control 0 bytes", "control 24 bytes")], UNIX),
    Difference(
        "data.c",
        "message_with_an_address",
        NOT_SEEN,
        [("sendmsg(ends[0], &message, MSG_NOSIGNAL): 3", "sendmsg(ends[0], &message, MSG_NOSIGNAL): EISCONN")],
        UNIX,
    ),
    Difference(
        "data.c",
        "error_queue_is_not_data",
        NO_ERROR_QUEUE,
        [
            (
                "recvmsg(ends[0], &message, MSG_ERRQUEUE | MSG_DONTWAIT): EAGAIN",
                "recvmsg(ends[0], &message, MSG_ERRQUEUE | MSG_DONTWAIT): 1",
            ),
            ("recv(ends[0], &c, 1, MSG_DONTWAIT): 1", "recv(ends[0], &c, 1, MSG_DONTWAIT): EAGAIN"),
        ],
        UNIX,
    ),
    Difference("data.c", "more_is_held_back", NO_SEGMENTS, [("held back: 1", "held back: 0")], UNIX),
    Difference("data.c", "receive_low_water_and_poll", NO_LOW_WATER, [("two of four: none", "two of four: IN")], UNIX),
    Difference(
        "options.c",
        "connected_ipv6",
        QUIRK,
        [
            ("IPV6_V6ONLY 1: EINVAL, then 1 in 4 bytes", "IPV6_V6ONLY 1: EINVAL, then 0 in 4 bytes"),
            ("IPV6_V6ONLY 0: EINVAL, then 1 in 4 bytes", "IPV6_V6ONLY 0: EINVAL, then 0 in 4 bytes"),
        ],
        UNIX,
        ("ip6",),
    ),
    Difference(
        "options.c",
        "connected_tcp",
        QUIRK,
        [("TCP_WINDOW_CLAMP 0: EINVAL, then 65536 in 4 bytes", "TCP_WINDOW_CLAMP 0: EINVAL, then 0 in 4 bytes")],
        UNIX,
    ),
    Difference(
        "options.c",
        "address_form",
        NO_ADDRESS_FORM,
        [("fresh: ENOTCONN", "fresh: ENOPROTOOPT"), ("connected: EADDRNOTAVAIL", "connected: ENOPROTOOPT")],
        UNIX,
        ("ip6",),
    ),
    _zerocopy("fresh_socket", "unix"),
    _zerocopy("connected_socket", "unix"),
    _zerocopy("listening_socket", "unix", "tcp"),
    Difference(
        "options.c",
        "ulp_and_repair",
        "they are about segments, of which there are none",
        [("repair 0", "repair -92"), ("md5: EINVAL", "md5: ENOPROTOOPT")],
        UNIX,
    ),
    Difference(
        "sharing.c",
        "child_binds",
        SWAPPED,
        [("parent: family INET, self, port set, length 16", "parent: family INET, any, port 0, length 16")],
        TCP,
        ("lo4", "ip4"),
    ),
    Difference(
        "sharing.c",
        "child_binds",
        SWAPPED,
        [("parent: family INET6, self, port set, length 28", "parent: family INET6, any, port 0, length 28")],
        TCP,
        ("ip6",),
    ),
    Difference("sharing.c", "exec_closes", HUNG_UP, [("poll: IN|RDHUP", "poll: IN|HUP|RDHUP")], UNIX),
    Difference(
        "signals.c",
        "accept_with_timeout_not_restarted",
        "the kernel restarts a notification as SA_RESTART says; that the socket has a time-out it does not look at",
        [("accept(fd, NULL, NULL): EINTR", "accept(fd, NULL, NULL): EAGAIN")],
    ),
    Difference("signals.c", "sigpipe", HUNG_UP, [("closed: RDHUP", "closed: HUP|RDHUP")], UNIX),
    Difference(
        "socket.c",
        "never_connected_io",
        UNCONNECTED,
        [
            ("read(fd, &byte, 1): ENOTCONN", "read(fd, &byte, 1): EINVAL"),
            ("recv(fd, &byte, 1, MSG_DONTWAIT): ENOTCONN", "recv(fd, &byte, 1, MSG_DONTWAIT): EINVAL"),
            ("write(fd, &byte, 1): EPIPE", "write(fd, &byte, 1): ENOTCONN"),
        ],
        UNIX,
    ),
    Difference(
        "socket.c",
        "never_connected_message",
        UNCONNECTED,
        [
            (
                "sendmsg(tcp(), &message, MSG_NOSIGNAL): EPIPE",
                "sendmsg(tcp(), &message, MSG_NOSIGNAL): EOPNOTSUPP",
            )
        ],
        UNIX,
    ),
    *(
        Difference(
            "udp_two.c",
            section,
            NOT_IN_WINDOW,
            [("  answer: 'one' from peer  7000", "  answer: EAGAIN")],
            UNIX,
            ("ip4", "mapped"),
        )
        for section in ("few_descriptors_and_messages", "message_of_one_that_was_copied_down")
    ),
    Difference(
        "udp_two.c",
        "reconnected",
        QUIRK,
        [("  answered: EAGAIN", "  answered: 'answer' from self, length 28")],
        UNIX,
        ("ip6",),
    ),
    Difference(
        "udp_two.c",
        "handed_over",
        STAYS_BEHIND,
        [("fresh: any set, ENOTCONN 0", "fresh: any 0, ENOTCONN 0")],
        UNIX,
        TWO,
    ),
    Difference("udp_names.c", "fresh", MARKED, [("SO_MARK 0", "SO_MARK 6664")], UNIX),
)
