"""What this kernel can do for this user, and what follows. Each feature is tried, none is believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from appswitch.kernel import probes


class Feature(NamedTuple):
    """One line of ``ax doctor``."""

    name: str
    found: bool
    required: bool  # nothing works without it
    since: str  # the Linux version that brought it
    detail: str  # what was seen
    meaning: str  # what it is for, or what follows when it is missing


class _Probe(NamedTuple):
    name: str
    since: str
    required: bool
    run: Callable[[], str]  # returns the detail; raises probes.MissingError or OSError
    use: str
    without: str


_SHARING = "programs that share the host's network (--new-netns=false) "

PROBES = (
    _Probe("64-bit architecture", "-", True, probes.architecture, "system calls are known", "it cannot work here"),
    _Probe("kernel", "5.14", True, probes.kernel, "new enough", "a newer kernel is needed"),
    _Probe("seccomp user notification", "5.0", True, probes.notification, "catches calls", "no call can be caught"),
    _Probe(
        "seccomp ADDFD with SEND", "5.14", True, probes.addfd_send, "gives apps sockets", "no app can be given a socket"
    ),
    _Probe(
        "seccomp SYNC_WAKE_UP",
        "6.6",
        False,
        probes.sync_wake_up,
        "fast answers",
        "each caught call takes 5 to 40 us more",
    ),
    _Probe(
        "pidfd_getfd", "5.6", True, probes.pidfd_getfd, "reaches apps' sockets", "sockets of apps cannot be connected"
    ),
    _Probe(
        "PIDFD_THREAD",
        "6.9",
        False,
        probes.pidfd_thread,
        "reaches apps by any thread",
        "calls of threads whose main thread has ended are refused",
    ),
    _Probe(
        "process_vm_readv", "3.2", True, probes.process_vm_readv, "reads calls' arguments", "arguments cannot be read"
    ),
    _Probe(
        "Landlock with TCP",
        "6.7",
        False,
        probes.landlock,
        "closes the way around",
        _SHARING + "could get around the switch by racing it; others cannot, their network is empty",
    ),
    _Probe(
        "network namespace",
        "3.8",
        False,
        probes.network_namespace,
        "an empty network for each app",
        "only `ax run --new-netns=false` works, in the host's network",
    ),
    _Probe(
        "dummy or veth interface",
        "2.6.24",
        False,
        probes.interface,
        "ax run --interface",
        "`ax run --interface` does not work (try `modprobe dummy`)",
    ),
    _Probe(
        "unix_diag",
        "3.3",
        True,
        probes.unix_diag,
        "forgets closed sockets",
        "closed sockets cannot be told from open ones",
    ),
    _Probe(
        "inet_diag",
        "3.3",
        True,
        probes.inet_diag,
        "forgets closed sockets",
        "closed sockets cannot be told from open ones",
    ),
    _Probe(
        "kcmp",
        "3.5",
        False,
        probes.kcmp,
        "finds descriptors that share a socket",
        "a duplicated descriptor keeps the old socket when a connection leaves the host",
    ),
    _Probe(
        "epoll in fdinfo",
        "3.8",
        False,
        probes.epoll_fdinfo,
        "keeps epoll registrations",
        "a socket watched by epoll before it connects off the host is no longer watched after",
    ),
    _Probe(
        "Yama allows looking into apps",
        "3.4",
        True,
        probes.yama,
        "nothing is in the way",
        "sysctl kernel.yama.ptrace_scope=1 (or 0) is needed",
    ),
    _Probe(
        "AppArmor allows user namespaces",
        "6.7",
        False,
        probes.apparmor,
        "nothing is in the way",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0 is needed for apps of users without root",
    ),
)


def probe(*, only_required: bool = False) -> list[Feature]:
    """Try everything, or only what nothing works without. Takes some 50 ms, and 5 s more for a probe that hangs."""
    found = []
    for one in PROBES:
        if one.required or not only_required:
            there, detail = probes.Isolated(one.run).result()
            found.append(Feature(one.name, there, one.required, one.since, detail, one.use if there else one.without))
    return found
