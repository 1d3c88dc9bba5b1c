"""``ax run``: make the app known to the daemon, then become the launcher, which becomes the program."""

from __future__ import annotations

import os
import signal
import sys
import time

from appswitch.cli import locate, rest
from appswitch.cli.options import RUN, HelpWanted, Parsed, UsageError, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from typing import Any

    from appswitch.cli.users import Identity
    from appswitch.paths import RunDir

FAILED = 125  # exit status when ax itself fails; 126 and 127 are the launcher's, as env(1) has them
MAX_COMMAND = 4096  # characters of the command line that `ax get` can show
# Where the daemon finds fault, and what the user wrote there.
_OPTION_OF = {
    "ips": "--ip",
    "labels": "--labels",
    "expose": "--expose",
    "name": "--name",
    "transport": "--transport",
    "interface": "--interface",
    "dns_override": "--dns-override",
    "nameservers": "/etc/resolv.conf",
    "host_ports": "--host-port",
    "proxy": "--proxy",
    "egress": "--egress",
    "egress.allow": "--egress-allow",
    "egress.deny": "--egress-deny",
    "egress.error": "--egress-error",
}


class RunError(Exception):
    """The app cannot be run. The text is for the user."""


def main(arguments: Sequence[str]) -> int:
    """Returns only on failure (125), or after help (0)."""
    try:
        parsed = parse(arguments, RUN, os.environ)
        execute(parsed)
    except HelpWanted:
        from appswitch.cli import commands

        return commands.main(["run", "--help"])
    except UsageError as err:
        print(f"ax run: {err}\nUsage: ax run [OPTIONS] [--] COMMAND [ARG]...   (ax run --help)", file=sys.stderr)
    except (RunError, rest.DaemonDownError) as err:
        print(f"ax run: {err}", file=sys.stderr)
    except rest.RefusedError as err:
        print(f"ax run: {describe(err)}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return FAILED


def execute(parsed: Parsed) -> None:
    """Become the program. Raises UsageError, RunError, rest.DaemonDownError, rest.RefusedError."""
    if not parsed.command:
        raise UsageError("there is no command to run")
    request = registration(parsed)
    identity = whom(parsed)
    launcher = find_launcher()
    answer = register(parsed, request)
    options = [str(one) for one in answer["launcher"]]
    if identity:
        options += ["--setuser", identity.launcher]
        os.environ.update(identity.environment)
    become(launcher, options, bytes.fromhex(answer["token"]), parsed.command)


# --- what to ask for -------------------------------------------------------------------------------------------------


def registration(parsed: Parsed) -> dict[str, Any]:
    """The body of POST /v1/apps. Raises UsageError."""
    body: dict[str, Any] = {
        "command": shown(parsed.command),
        "netns": "new" if parsed.switches["new_netns"] else "host",
    }
    if parsed.csv("ip"):
        body["ips"] = parsed.csv("ip")
    for key in ("name", "proxy", "transport"):
        if key in parsed.texts:
            body[key] = parsed.texts[key]
    if parsed.lists["labels"]:
        body["labels"] = labels(parsed.csv("labels"))
    if parsed.csv("expose"):
        body["expose"] = parsed.csv("expose")
    if parsed.csv("host_port"):
        body["host_ports"] = parsed.csv("host_port")
    if rules := egress(parsed):
        body["egress"] = rules
    if "interface" in parsed.texts:
        body["interface"] = interface(parsed, body)
    if parsed.switches["dns_override"]:
        if body["netns"] == "host":
            raise UsageError("--dns-override is for an app with a network namespace of its own")
        body["dns_override"] = True
    elif body["netns"] == "new":
        from appswitch.cli import resolvconf

        body["nameservers"] = resolvconf.nameservers()
    return body


def egress(parsed: Parsed) -> dict[str, Any]:
    """What of ``--egress`` and its rules was given."""
    found: dict[str, Any] = {}
    for key, name in (("egress", "default"), ("egress_error", "error")):
        if key in parsed.texts:
            found[name] = parsed.texts[key]
    for key, name in (("egress_allow", "allow"), ("egress_deny", "deny")):
        if parsed.csv(key):
            found[name] = parsed.csv(key)
    return found


def interface(parsed: Parsed, body: dict[str, Any]) -> str:
    """Its name, if there can be one. Raises UsageError."""
    if body["netns"] == "host":
        raise UsageError("--interface is for an app with a network namespace of its own")
    if not body.get("ips") and "name" not in body:
        raise UsageError("--interface needs --ip, or --name, which draws an address: that is what the interface gets")
    return parsed.texts["interface"]


def labels(texts: Sequence[str]) -> dict[str, str]:
    """``k=v`` each. Raises UsageError."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--labels: {text!r} is not KEY=VALUE")
        found[key] = value
    return found


def shown(command: Sequence[str]) -> list[str]:
    """A command as others see it: UTF-8, and no longer than somebody will read."""
    words: list[str] = []
    room = MAX_COMMAND
    for word in command:
        text = word.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if len(text) > room:
            words.append(text[:room] + "…")
            break
        words.append(text)
        room -= len(text) + 1
    return words


def whom(parsed: Parsed) -> Identity | None:
    """Whom ``--user`` names, None without it. Raises UsageError."""
    if "user" not in parsed.texts:
        return None
    if os.geteuid() != 0:
        raise UsageError("--user: only root can run a command as another user")
    from appswitch.cli import users

    return users.resolve(parsed.texts["user"])


# --- asking ----------------------------------------------------------------------------------------------------------


def register(parsed: Parsed, request: dict[str, Any]) -> Any:
    """POST /v1/apps, to a daemon that may have to be started. Raises rest.DaemonDownError, rest.RefusedError."""
    start = parsed.switches["start_daemon"]
    given = parsed.texts.get("run_dir")
    end, stopping = time.monotonic() + locate.PATIENCE, False
    while True:
        directory, sock = _daemon(given, start=start)
        trust(directory, sock)
        try:
            return rest.request(sock, "POST", "/v1/apps", request)
        except rest.DaemonDownError:  # its control process was killed, or nobody had needed it for a while
            if time.monotonic() > end or not (start or locate.alive(directory)):
                raise
        except rest.RefusedError as err:
            if stopping or err.slug != "stopping":
                raise
            stopping = True
        time.sleep(0.02)


def _daemon(given: str | None, *, start: bool) -> tuple[RunDir, socket.socket]:
    try:
        return locate.reach(given)
    except rest.DaemonDownError as err:
        mine = locate.own(given)
        if not start:
            raise rest.DaemonDownError(f"{err}: {rest.explain_start(mine.directory)}") from None
        from appswitch.cli import autostart

        autostart.start(mine)
        return mine, rest.connect(mine.directory)


def trust(directory: RunDir, sock: socket.socket) -> None:
    """A daemon sees and decides every call of its apps: it must be root's or our own. Raises RunError."""
    uid = rest.owner(sock)
    if uid not in (0, os.geteuid()):
        sock.close()
        raise RunError(f"the daemon in {directory.directory} belongs to uid {uid}, which could do anything to the app")


def describe(err: rest.RefusedError) -> str:
    """A refusal in the words of the command line."""
    if not err.errors:
        return str(err)
    lines = []
    for one in err.errors:
        path = one.get("path") or [""]
        option = _OPTION_OF.get(".".join(map(str, path[:2]))) or _OPTION_OF.get(str(path[0]))
        lines.append(f"{option}: {one['detail']}" if option else str(one["detail"]))
    return "\nax run: ".join(lines)


# --- becoming --------------------------------------------------------------------------------------------------------


def find_launcher() -> str:
    """The static program beside the package (``$AX_LAUNCHER`` names another). Raises RunError."""
    path = os.environ.get("AX_LAUNCHER") or os.path.join(
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_bin", "ax-launch"
    )
    if not os.access(path, os.X_OK):
        raise RunError(f"the launcher {path} is missing: appswitch was not built completely")
    return path


def become(launcher: str, options: Sequence[str], token: bytes, command: Sequence[str]) -> None:
    """execve(2), with the token in a pipe: neither the command line nor the environment shows it. Raises RunError."""
    reader, writer = os.pipe()
    os.write(writer, token)
    os.close(writer)
    os.set_inheritable(reader, True)
    # Python ignores these for itself; the program shall find them as it would without us.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    _undo_locale_coercion()
    sys.stdout.flush()
    try:
        os.execv(launcher, ["ax-launch", *options, "--token-fd", str(reader), "--", *command])  # noqa: S606
    except OSError as err:
        raise RunError(f"cannot run the launcher {launcher}: {err.strerror}") from None


def _undo_locale_coercion() -> None:
    """Python sets LC_CTYPE where it finds the C locale (PEP 538). The program shall not see that."""
    if os.environ.get("LC_CTYPE") not in ("C.UTF-8", "C.utf8", "UTF-8"):
        return
    with open("/proc/self/environ", "rb") as file:  # as it was at execve(2), proc(5)
        if not any(entry.startswith(b"LC_CTYPE=") for entry in file.read().split(b"\0")):
            del os.environ["LC_CTYPE"]
