"""``--user``: from a name to numbers and an environment, as runuser(1) makes it."""

from __future__ import annotations

import grp
import os
import pwd

from appswitch.cli.options import UsageError

MAX_ID = 2**32 - 2  # -1 means "leave it alone" to setresuid(2)


class Identity:
    """Whom to become."""

    __slots__ = ("environment", "gid", "groups", "uid")

    def __init__(self, uid: int, gid: int, groups: list[int], environment: dict[str, str]) -> None:
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.environment = environment

    @property
    def launcher(self) -> str:
        """As the launcher's --setuser wants it."""
        return f"{self.uid}:{self.gid}:{','.join(map(str, self.groups))}" if self.groups else f"{self.uid}:{self.gid}"


def resolve(text: str) -> Identity:
    """``NAME``, ``UID``, ``NAME:GROUP``, ``UID:GID``. With a group, that is the only one. Raises UsageError."""
    user, colon, group = text.partition(":")
    entry = _entry(user)
    if entry is None and not colon:
        raise UsageError(f"--user: uid {user} is nobody's here, so name its group, too: --user {user}:GID")
    uid = entry.pw_uid if entry else int(user)
    if colon:
        gid = _group(group)
        groups = [gid]
    else:
        assert entry is not None
        gid = entry.pw_gid
        groups = os.getgrouplist(entry.pw_name, gid)
    environment = {"HOME": entry.pw_dir if entry else "/"}
    if entry:
        environment |= {"USER": entry.pw_name, "LOGNAME": entry.pw_name, "SHELL": entry.pw_shell or "/bin/sh"}
    return Identity(uid, gid, groups, environment)


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    if int(text) > MAX_ID:
        raise UsageError(f"--user: {text} is too large for an id")
    return int(text)


def _entry(user: str) -> pwd.struct_passwd | None:
    """None: a number without an entry."""
    number = _number(user)
    try:
        return pwd.getpwnam(user) if number is None else pwd.getpwuid(number)
    except KeyError:
        if number is None:
            raise UsageError(f"--user: there is no user {user!r}") from None
        return None


def _group(group: str) -> int:
    number = _number(group)
    if number is not None:
        return number
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise UsageError(f"--user: there is no group {group!r}") from None
