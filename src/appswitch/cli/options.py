"""The options of ``ax run``: one table, from which parsing, help and completion derive. No click here: see __init__."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class UsageError(Exception):
    """The command line makes no sense. The text says why."""


class HelpWanted(Exception):  # noqa: N818 - it is none
    """--help was given."""


class Option:
    """``--name VALUE``, or with ``switch`` the pair ``--name`` / ``--no-name`` (also ``--name=true|false``)."""

    __slots__ = ("choices", "default", "env", "help", "many", "metavar", "name", "switch")

    def __init__(  # noqa: PLR0913 - a table's columns
        self,
        name: str,
        metavar: str = "",
        *,
        many: bool = False,
        switch: bool = False,
        default: bool | None = None,
        env: str = "",
        choices: Sequence[str] = (),
        help: str,  # noqa: A002 - click's word
    ) -> None:
        self.name = name
        self.metavar = metavar
        self.many = many
        self.switch = switch
        self.default = default
        self.env = env
        self.choices = tuple(choices)
        self.help = help

    @property
    def key(self) -> str:
        """The option in the parsed result."""
        return self.name[2:].replace("-", "_")


RUN = (
    Option(
        "--ip", "IP[,IP]", many=True, help="Virtual addresses of the app: an IPv4 address, an IPv6 address or both."
    ),
    Option(
        "--name",
        "NAME",
        help="Name of the app, by which others find it: letters, digits and hyphens. Without --ip it draws an address.",
    ),
    Option(
        "--labels",
        "K=V[,K=V]",
        many=True,
        help="Labels of the app; they replace the default, zone=default.",
    ),
    Option(
        "--expose",
        "INTERNAL[:[NODE-IP:]PORT][/tcp|/udp]",
        many=True,
        help="Make the app's port INTERNAL reachable at PORT of the host, on all its addresses or on NODE-IP, "
        "for TCP and UDP or one of them. Without PORT one of ax daemon --ports (see `ax get exposed`).",
    ),
    Option(
        "--host-port",
        "[INTERNAL:]HOSTPORT",
        many=True,
        help="Let the app's loopback port INTERNAL (HOSTPORT if not given) lead to the host's loopback port.",
    ),
    Option(
        "--egress",
        "allow|deny",
        choices=("allow", "deny"),
        help="What the app may reach outside where no rule says: everything (the default), or nothing.",
    ),
    Option(
        "--egress-allow",
        "CIDR|NAME",
        many=True,
        help="The app may reach this network, or this DNS name (*.NAME: all names below it) once it has resolved it.",
    ),
    Option("--egress-deny", "CIDR|NAME", many=True, help="The app may not, whatever else is allowed."),
    Option(
        "--egress-error",
        "EACCES|ECONNREFUSED",
        choices=("EACCES", "ECONNREFUSED"),
        help="What a denied call fails with; EACCES if not given.",
    ),
    Option(
        "--dns-override",
        switch=True,
        default=False,
        help="Give the app a resolv.conf that names only the daemon, in a mount namespace of its own.",
    ),
    Option("--proxy", "NAME", help="Hand the connections that the app makes to this proxy (see `ax create proxy`)."),
    Option("--user", "NAME|UID[:GID]", help="Run the command as this user. Only root can."),
    Option("--interface", "NAME", help="Give the app an interface of this name, with its addresses, beside lo."),
    Option(
        "--new-netns",
        switch=True,
        default=True,
        help="Run in a new, empty network namespace (the default), or in the host's.",
    ),
    Option(
        "--transport",
        "unix|tcp",
        env="AX_TRANSPORT",
        choices=("unix", "tcp"),
        help="What joins the app to others on this host; the daemon's choice if not given.",
    ),
    Option(
        "--start-daemon",
        switch=True,
        default=True,
        env="AX_START_DAEMON",
        help="Start a daemon in the background if there is none (the default), or fail.",
    ),
    Option("--run-dir", "DIR", env="AX_RUN_DIR", help="The daemon's directory."),
)

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


class Parsed:
    """Values of options by `Option.key`, and the command behind them."""

    def __init__(self, table: Sequence[Option], env: Mapping[str, str]) -> None:
        self.texts: dict[str, str] = {}
        self.lists: dict[str, list[str]] = {option.key: [] for option in table if option.many}
        self.switches: dict[str, bool] = {}
        self.command: list[str] = []
        for option in table:
            if option.switch:
                self.switches[option.key] = bool(option.default)
            if option.env and env.get(option.env):
                self.put(option, env[option.env], option.env)

    def put(self, option: Option, value: str, source: str) -> None:
        """Note a value. Raises UsageError naming ``source`` if the option cannot have it."""
        if option.switch:
            self.switches[option.key] = _boolean(value, source)
        elif option.many:
            self.lists[option.key].append(value)
        elif option.choices and value not in option.choices:
            raise UsageError(f"{source}: {value!r} is not one of {', '.join(option.choices)}")
        else:
            self.texts[option.key] = value

    def csv(self, key: str) -> list[str]:
        """Values that may be repeated or separated by commas, as one list. Raises UsageError for an empty one.

        Nothing between commas is most often a variable that was not set: it must not come to mean "none".
        """
        parts = [part.strip() for value in self.lists[key] for part in value.split(",")]
        if not all(parts):
            raise UsageError(f"--{key.replace('_', '-')}: the value is empty")
        return parts


def parse(arguments: Sequence[str], table: Sequence[Option], env: Mapping[str, str]) -> Parsed:
    """Options up to the first word that is none, or up to ``--``; the rest is the command.

    Raises UsageError and HelpWanted.
    """
    parsed = Parsed(table, env)
    known = {option.name: option for option in table}
    position = 0
    while position < len(arguments):
        word = arguments[position]
        if word == "--":
            position += 1
            break
        if not word.startswith("-") or word == "-":
            break
        if word in ("--help", "-h"):
            raise HelpWanted
        position += 1
        name, equals, value = word.partition("=")
        option = known.get(name)
        if option is None:
            option = _negated(name, equals, known)
            parsed.switches[option.key] = False
        elif option.switch:
            parsed.put(option, value if equals else "true", name)
        else:
            if not equals:
                if position == len(arguments):
                    raise UsageError(f"{name} needs a value: {name} {option.metavar}")
                value = arguments[position]
                position += 1
            parsed.put(option, value, name)
    parsed.command = list(arguments[position:])
    return parsed


def _negated(name: str, equals: str, known: Mapping[str, Option]) -> Option:
    option = known.get("--" + name[5:]) if name.startswith("--no-") and not equals else None
    if option is None or not option.switch:
        import difflib

        negations = ["--no-" + one.name[2:] for one in known.values() if one.switch]
        near = difflib.get_close_matches(name, [*known, *negations], 1)
        raise UsageError(f"there is no option {name}" + (f"; did you mean {near[0]}?" if near else ""))
    return option


def _boolean(value: str, source: str) -> bool:
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise UsageError(f"{source}: {value!r} is neither true nor false")
