"""`python -m appswitch.switch`: one process of the daemon, started by the keeper. Options come as AX_* variables."""

from __future__ import annotations

import gc
import os
import platform
import select
import signal
import socket
import sys
from pathlib import Path

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.address import ip_bytes, parse_ports
from appswitch.kernel import sockaddr
from appswitch.paths import RunDir, run_dir
from appswitch.switch.apps import App, current
from appswitch.switch.attach import Attach
from appswitch.switch.channel import Channel
from appswitch.switch.core import Config, Switch
from appswitch.switch.descriptors import raise_limit
from appswitch.switch.endpoint import Endpoint
from appswitch.switch.estate import end, take, take_back
from appswitch.switch.journal import Journal, fresh_memory
from appswitch.switch.keep import Keep, Kept, recovered
from appswitch.switch.loop import Loop
from appswitch.switch.memory import PairNote
from appswitch.switch.netns import Netns
from appswitch.switch.recover import answer_again, restore
from appswitch.switch.reflexes import fresh
from appswitch.switch.report import Log, Reports


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    places = run_dir()
    kept = recovered()
    journal = Journal(kept.journal or fresh_memory())
    for pid in journal.switches(os.getpid()):
        _kernel.trust(pid)
    loop = Loop(fresh(platform.machine()), journal.map)
    log = Log(os.environ.get("AX_LOG_FORMAT") == "json", os.environ.get("AX_LOG_LEVEL", "info").lower())
    keep = Keep(loop)
    raise_limit()
    _work_in(places.sockets)
    switch = Switch(_config(places), loop, journal, Reports(log), keep, kept)
    switch.holder.start()
    switch.on_detach = lambda app: keep.forget_app(app.spec.appid)
    take_back(journal, list(kept.holders.values()))
    _kernel.note_loans(journal.memory)
    launchers = _recover(switch, journal, os.fsencode(places.attach))
    attach_socket = _listen(keep, kept, places.attach, socket.SOCK_SEQPACKET, 0o666)
    channel_socket = _listen(keep, kept, places.switch, socket.SOCK_STREAM, 0o600)
    delegate_socket = _listen(keep, kept, places.delegate, socket.SOCK_SEQPACKET, 0o666)
    switch.delegation.endpoint = Endpoint(switch, delegate_socket, os.geteuid())
    attach = Attach(switch, keep, attach_socket)
    attach.restore(kept.tokens, launchers)
    Channel(switch, attach, channel_socket, os.geteuid())
    _kernel.watch_over()
    # No signal may interrupt a reply, see `_kernel.signal_fd`.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # "read your files again": there are none
    signals = _kernel.signal_fd(signal.SIGTERM, signal.SIGINT)
    switch.held, switch.inherited = [signals], kept.inherited
    loop.watch(signals, select.EPOLLIN, lambda _events: loop.stop())
    # Nothing that a call makes is a cycle: references alone free it, and no collection interrupts a call.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    keep.ready()
    keep.watch()
    if not kept.apps:
        keep.serving()
    loop.run()
    # Files and descriptors are the keeper's affair: it may be that a successor needs them. So they are not closed here
    # one after the other, which would close them in the holder as well.
    os._exit(0)


def _recover(switch: Switch, journal: Journal, attach: bytes) -> list[Fd]:
    """What an earlier switch left is ours now. Its connections to launchers, at the path ``attach``."""
    keep, kept = switch.keep, switch.kept
    (keep.record if kept.journal is None else keep.again)("journal", journal.memory)
    (keep.record if kept.memory is None else keep.again)("memory", switch.memory.memory)
    for appid in kept.orphans:
        keep.forget_app(appid)
    if kept.apps:
        switch.recovered = True
        switch.early.wait()
    for spec, origin, listener, home in kept.apps:
        keep.app_again(spec, origin, listener, home)
        switch.attach(App(spec, listener, current(origin), _home(home)))
    notes = switch.memory.recall()
    pairs = {note.cookie: (slot, note) for slot, note in notes if isinstance(note, PairNote)}
    found, launchers = take(switch, journal, list(kept.holders.values()), attach, pairs)
    switch.resume.add(found)
    switch.holder.tell()
    for name, holder in kept.holders.items():  # from here on ours has it all
        end(holder)
        keep.forget(name)
    answer_again(switch, journal)  # before others are entered into the journal
    restore(switch, journal, notes)
    return launchers


def _home(kept: tuple[Fd, ...]) -> Netns | None:
    return Netns(kept[0], kept[1] if len(kept) > 1 else None) if kept else None


def _config(places: RunDir) -> Config:
    env = os.environ
    node_ips = {}
    for text in filter(None, env.get("AX_NODE_IP", "").split(",")):
        ip = ip_bytes(text)
        node_ips[len(ip)] = ip
    return Config(
        arch=platform.machine(),
        ports=parse_ports(env.get("AX_PORTS", "40000-60000")),
        node_ips=node_ips,
        transport=env.get("AX_TRANSPORT", "unix"),
        timing=env.get("AX_TIMING") == "1",
        dns=places.dns if _is_on(env.get("AX_DNS", "1")) else None,
        landlock=_is_on(env.get("AX_LANDLOCK", "1")),
    )


def _is_on(text: str) -> bool:
    return text.lower() not in ("0", "false", "no", "off")


def _work_in(directory: Path) -> None:
    """Listening sockets have short names, relative to here: sun_path has room for 108 bytes only."""
    directory.mkdir(mode=0o700, exist_ok=True)
    directory.chmod(0o700)
    os.chdir(directory)


def _listen(keep: Keep, kept: Kept, path: Path, kind: int, mode: int) -> socket.socket:
    """A listening socket at ``path``, which no other daemon uses: the keeper holds the directory's lock.

    One that an earlier switch listened on is used again: those who wait in its queue do not notice.
    """
    name = f"own-{path.name}"
    for fd in kept.listeners.pop(name, []):
        own = _kernel.getsockname(fd)
        if path.exists() and not isinstance(own, int) and sockaddr.unix_name(own) == os.fsencode(path):
            keep.again(name, fd)
            return socket.socket(fileno=os.dup(fd.fileno()))
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    listener.bind(str(path))
    path.chmod(mode)
    listener.listen(128)
    keep.forget(name)
    keep.listener(name, Fd(os.dup(listener.fileno())))
    return listener


if __name__ == "__main__":
    sys.exit(main())
