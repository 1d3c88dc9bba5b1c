"""The daemon's options as control gets them: environment variables that ``ax daemon`` has checked and completed."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeVar, cast

import msgspec

from appswitch.address import Address, parse_dns_domain, parse_dns_servers, parse_ports
from appswitch.model import Transport
from appswitch.networks import DEFAULT_USER_NETWORKS, Network, choose_pools, parse_pools, parse_user_networks
from appswitch.paths import RunDir

DEFAULT_PORT = 6664
DEFAULT_DOMAIN = "appswitch.local"
_SWITCH = {"1": True, "true": True, "0": False, "false": False}

T = TypeVar("T")


class SettingsError(ValueError):
    """An option that control cannot work with. The text names the variable."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What control was told. See `from_environ` for the variables."""

    run_dir: RunDir
    node: str
    cluster: str = "appswitch"
    transport: Transport = "unix"
    rest_port: int | Literal["auto"] = DEFAULT_PORT  # 0: only the Unix socket; auto: 6664 if nobody has it
    token: str | None = None  # who sends it over TCP may do what the daemon's user may
    token_file: Path | None = None  # read again on SIGHUP
    ports: tuple[range, ...] = (range(40000, 60001),)  # of the host, that are drawn for --expose without one
    idle_exit: float = 0.0  # seconds without an app after which the daemon ends; 0: never
    dns: bool = True  # answer apps' DNS queries
    dns_domain: str = DEFAULT_DOMAIN  # NAME.DOMAIN is an app's, as is NAME alone
    dns_servers: tuple[Address, ...] = ()  # for names that are no app's; empty: those of the host's resolv.conf
    pools: tuple[Network, ...] = choose_pools(())  # where apps with a name alone get their addresses
    pools_given: bool = False  # or chosen by `ax daemon`
    user_networks: tuple[Network, ...] = parse_user_networks(DEFAULT_USER_NETWORKS)  # what users may claim by --ip
    state_dir: Path | None = None  # where resources are kept; None: in memory
    keeper: int = 0  # pid of the parent; 0: none, control was started by hand


def from_environ(env: Mapping[str, str]) -> Settings:
    """Read ``AX_RUN_DIR`` (required) and ``AX_NODE_NAME``, ``_CLUSTER``, ``_TRANSPORT``, ``_REST_PORT`` and so on.

    Raises SettingsError.
    """
    if not env.get("AX_RUN_DIR"):
        raise SettingsError("AX_RUN_DIR is not set")
    transport = env.get("AX_TRANSPORT") or "unix"
    if transport not in ("unix", "tcp"):
        raise SettingsError(f"AX_TRANSPORT is {transport!r}, neither unix nor tcp")
    token_file = Path(env["AX_REST_TOKEN_FILE"]) if env.get("AX_REST_TOKEN_FILE") else None
    return Settings(
        run_dir=RunDir(os.path.abspath(env["AX_RUN_DIR"])),  # noqa: PTH100 - resolve() would follow links
        node=env.get("AX_NODE_NAME") or platform.node(),
        cluster=env.get("AX_CLUSTER") or "appswitch",
        transport=cast("Transport", transport),
        rest_port=_port(env.get("AX_REST_PORT") or str(DEFAULT_PORT)),
        token=read_token(token_file) if token_file else env.get("AX_REST_TOKEN") or None,
        token_file=token_file,
        ports=tuple(_parsed("AX_PORTS", parse_ports, env.get("AX_PORTS") or "40000-60000")),
        idle_exit=_seconds(env.get("AX_IDLE_EXIT") or "0"),
        dns=_switch("AX_DNS", env.get("AX_DNS") or "1"),
        dns_domain=_parsed("AX_DNS_DOMAIN", parse_dns_domain, env.get("AX_DNS_DOMAIN") or DEFAULT_DOMAIN),
        dns_servers=_parsed("AX_DNS_SERVERS", parse_dns_servers, env.get("AX_DNS_SERVERS") or ""),
        pools=_parsed("AX_POOLS", parse_pools, env["AX_POOLS"]) if env.get("AX_POOLS") else choose_pools(()),
        pools_given=_switch("AX_POOLS_GIVEN", env.get("AX_POOLS_GIVEN") or ("1" if env.get("AX_POOLS") else "0")),
        user_networks=_parsed(
            "AX_USER_NETWORKS", parse_user_networks, env.get("AX_USER_NETWORKS") or DEFAULT_USER_NETWORKS
        ),
        state_dir=Path(os.path.abspath(env["AX_STATE_DIR"])) if env.get("AX_STATE_DIR") else None,  # noqa: PTH100
        keeper=int(env.get("AX_KEEPER_PID") or "0"),
    )


def read_token(path: Path) -> str:
    """The first line of a token file. Raises SettingsError if there is none of at least 16 characters."""
    try:
        token = path.read_text("utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as err:
        raise SettingsError(f"cannot read the REST token from {path}: {err}") from None
    if len(token) < 16:
        raise SettingsError(f"the REST token in {path} is shorter than 16 characters")
    return token


def _port(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if text.isascii() and text.isdigit() and int(text) <= 65535:
        return int(text)
    raise SettingsError(f"AX_REST_PORT is {text!r}, neither 0..65535 nor auto")


def _switch(variable: str, text: str) -> bool:
    value = _SWITCH.get(text.lower())
    if value is None:
        raise SettingsError(f"{variable} is {text!r}, neither true nor false")
    return value


def _parsed(variable: str, parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ValueError as err:
        raise SettingsError(f"{variable}: {err}") from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise SettingsError(f"AX_IDLE_EXIT is {text!r}, not a number of seconds")
    return seconds
