"""Who may do what.

======================  ====================================================================================
who asks                may
======================  ====================================================================================
Unix socket: root, or   read and change everything (an *administrator* below)
the daemon's own user
Unix socket: another    when the daemon runs as root: run apps as itself; see and change its own apps, servers,
user                    sockets, connections and flows; take names and addresses that are free to them (`claims`),
                        for vservices, references and proxies, too (`resources.judge`); policies are not
                        theirs.
                        When the daemon is a user's: nothing
TCP, no token           read everything but the words of commands (any user of the host can connect there)
TCP, the right token    what an administrator may; apps that it registers are the daemon's user's
TCP, a wrong token      nothing
======================  ====================================================================================

On the Unix socket the kernel tells who is at the other end (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable

import msgspec

from appswitch.control.problems import ProblemError
from appswitch.model import AppSpec, ConnectionRow, FlowRow

# What `FlowRow.rule` says where no policy decided: the app's own --egress, a limit, first bytes that mean nothing.
NOT_CONFIGURED = frozenset(("", "egress", "limits", "peek"))


class Peer(msgspec.Struct, frozen=True):
    """The process at the other end of a Unix socket, when it connected."""

    pid: int
    uid: int
    gid: int


class Caller(msgspec.Struct, frozen=True):
    """Who is behind a request, and so what it may see and do."""

    uid: int
    gid: int
    admin: bool
    writes: bool
    sees_all: bool

    def sees(self, app: AppSpec | None) -> bool:
        """Whether an app (None: no app any more) and what it has are shown."""
        return self.sees_all or (app is not None and app.uid == self.uid)

    def sees_owner(self, uid: int) -> bool:
        """Whether what this user has configured is shown."""
        return self.sees_all or uid == self.uid

    def sees_connection(self, row: ConnectionRow | FlowRow, app_of: Callable[[int], AppSpec | None]) -> bool:
        """Whoever owns one end sees a connection, and what was decided about it."""
        return self.sees_all or any(self.sees(app_of(end)) for end in (row.client_app, row.server_app))

    def rule(self, rule: str) -> str:
        """What decided, as far as it is shown: policies are administrators', and so are their names."""
        if self.sees_all or rule in NOT_CONFIGURED:
            return rule
        return "(proxy)" if rule.startswith("proxy ") else "(policy)"

    def must_own(self, app: AppSpec) -> None:
        """Raises ProblemError unless the app may be changed."""
        self.must_write()
        if not self.admin and app.uid != self.uid:
            raise ProblemError("forbidden", "the app belongs to another user")

    def must_write(self) -> None:
        """Raises ProblemError unless this is somebody who may change something at all."""
        if not self.writes:
            raise ProblemError("read-only", "over TCP without a token everything can be read and nothing changed")


def caller(peer: Peer | None, authorization: str | None, token: str | None) -> Caller:
    """Judge a request by its Unix peer (None: it came over TCP) or its token. Raises ProblemError."""
    own = os.geteuid()
    if peer is not None:
        admin = administrates(peer.uid)
        if not admin and own != 0:
            raise ProblemError("forbidden", f"this daemon serves uid {own} only, and you are uid {peer.uid}")
        return Caller(uid=peer.uid, gid=peer.gid, admin=admin, writes=True, sees_all=admin)
    allowed = authorization is not None and _token_is_right(authorization, token)
    return Caller(uid=own, gid=os.getegid(), admin=allowed, writes=allowed, sees_all=True)


def administrates(uid: int) -> bool:
    """Whether a user of the Unix socket is an administrator."""
    return uid in (0, os.geteuid())


def same_hands(one: int, other: int) -> bool:
    """Whether things of these two users may lead to each other: they are one user, or both administrators."""
    return one == other or (administrates(one) and administrates(other))


def _token_is_right(authorization: str, token: str | None) -> bool:
    """True, or ProblemError: who sends a credential wants it judged (RFC 6750 section 3.1)."""
    scheme, _, given = authorization.partition(" ")
    if token is None:
        raise ProblemError("bad-token", "this daemon has no token: it is read-only over TCP")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
        raise ProblemError("bad-token", "the token is not the daemon's")
    return True
