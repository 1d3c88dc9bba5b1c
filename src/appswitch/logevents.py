"""Every line that the daemon logs: how serious it is, and what whoever reads it can do.

One place for all of them, so that each has an answer to "and now?". `tests/unit/test_logevents.py` holds the sources to
it: what is logged must be here, and nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

_REPORT = "a mistake of AppSwitch: please report it, with what `ax debug dump` writes"
_LIMITS = "raise the daemon's limits (LimitNOFILE=, ulimit -n), or run fewer apps"
_AGAIN = "nothing to do if it comes once: the keeper starts what has ended; `ax debug check` tells whether all is well"


class Event(NamedTuple):
    """``hint`` is empty where nothing is to be done."""

    level: str
    hint: str = ""


SWITCH = {
    # what became of apps' calls
    "denied": Event("info", "`ax policy test` tells why; `ax flows` shows every decision"),
    "would be denied": Event("info", "a dry run: without it the policy would deny this"),
    "a connection cannot be handed over": Event(
        "warning", "the proxy's link is broken or descriptors are short; it goes on as the proxy's onFailure says"
    ),
    "attach refused": Event(
        "warning", "run the program again; if it stays so, look for an old `ax` on that user's PATH (`ax version`)"
    ),
    "fault": Event("error", "a limit of the host, if the error is EMFILE, ENFILE or ENOMEM; else " + _REPORT),
    # the way in and out
    "exposed": Event("info"),
    "cannot expose": Event("warning", "choose another port with --expose, or end who has it"),
    "cannot open a port of the host": Event(
        "warning", "end the program that has the port (ss -ltnp), or give the vservice another; it is tried again"
    ),
    "backend ejected": Event("warning", "see why it refuses; `ax get backends` shows when it is tried again"),
    "a proxy is cut off": Event("warning", "the proxy does not keep to docs/delegation-protocol.md: mend it"),
    "the splicer ended": Event("warning", _AGAIN),
    "no splicer": Event("error", _LIMITS),
    "the splicer is of another version": Event("error", "install AppSwitch again, and restart the daemon"),
    "the holder ended": Event("warning", _AGAIN),
    "no holder": Event("warning", "a switch that is killed resets the connections in its hands: " + _LIMITS),
    "took over connections": Event("info"),
    # UDP and DNS
    "no DNS for an app": Event("warning", "the app resolves no names: start it again; " + _LIMITS),
    "control does not take DNS sockets": Event("warning", _AGAIN),
    "no stand-in": Event("warning", "a peer's datagrams do not arrive: " + _LIMITS),
    "strays stay lost": Event("warning", "late datagrams do not arrive: see docs/limits.md, Of UDP"),
    "cannot link again": Event("warning", "start the app again: its UDP socket has lost its way outside"),
    "file systems of an app ended": Event(
        "warning", "an argument of a call lay in memory behind a FUSE file system that did not answer, and all waited: "
        "see SECURITY.md, Slow memory"
    ),
    # control
    "control cut off": Event("warning", _AGAIN),
}  # fmt: skip

CONTROL = {
    # the switch
    "connected to the switch": Event("info"),
    "the switch closed the connection": Event("warning", _AGAIN),
    "lost the switch": Event("warning", _AGAIN),
    # requests
    "a request failed": Event("error", _REPORT),
    "registered": Event("debug"),
    "a change is lost": Event("error", "make room in the state directory, or mend its permissions, and apply it again"),
    "the state cannot be read: it is put aside, and the daemon starts without": Event(
        "error", "apply what was configured again; the old file is kept for you to look at"
    ),
    # DNS
    "a query failed": Event("error", _REPORT),
    "an upstream server failed": Event("debug"),
    "no DNS over TCP": Event("warning", "the app's long answers are cut: " + _LIMITS),
    "no permit": Event("warning", "the app's egress rule does not hold for the name yet: it may resolve it again"),
    "the switch refused a permit": Event("warning", "the app has ended, or: " + _REPORT),
    "sockets that cannot be used": Event("warning", "only the daemon may send to dns.sock: look who else does"),
    "too many sockets of unknown apps": Event("warning", _AGAIN),
    # life
    "no app for a while: the daemon ends": Event("info"),
    "read the REST token again": Event("info"),
    "kept the old REST token": Event("error", "mend the token file, and send SIGHUP again"),
}  # fmt: skip
