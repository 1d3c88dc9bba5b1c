"""/v1/explain: what would become of a connection, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from appswitch.address import Address, ip_bytes, unmap
from appswitch.control.access import Caller
from appswitch.control.api.deps import RESPONSES, Parts, TheCaller, TheParts
from appswitch.control.api.views import AppId, Proto, View
from appswitch.control.problems import SLUGS, ProblemError
from appswitch.model import AppSpec
from appswitch.resources import VService
from appswitch.wire import Done, Explain, Explained

router = APIRouter(prefix="/v1", tags=["policies"], responses=RESPONSES)

_APPID = re.compile("[0-9a-f]{8}")
_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<v4>[0-9.]+)):(?P<port>[0-9]{1,5})")
_NAME = re.compile(r"(?P<name>[A-Za-z0-9][-A-Za-z0-9.]*)(?::(?P<port>[0-9]{1,5}))?")
HANDED = "handed to the proxy"  # NAME: `appswitch.switch.explain`
_FORMS = "give IPV4:PORT, [IPV6]:PORT, NAME:PORT, or the name of a vservice that has one port"

Text = Annotated[str, Field(max_length=65536)]


class ExplainRequest(BaseModel):
    """A connection that an app might make."""

    model_config = ConfigDict(extra="forbid")

    from_: str = Field(alias="from", max_length=253, description="The client: an app's id, or its name.")
    to: str = Field(
        max_length=512, description="IPV4:PORT, [IPV6]:PORT, NAME:PORT, or the name of a vservice that has one port."
    )
    protocol: Proto = "tcp"
    uid: Annotated[int, Field(ge=0, lt=2**32 - 1)] | None = Field(None, description="Of the process that calls.")
    executable: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        None, description="Absolute path of the program that calls."
    )
    attributes: dict[Annotated[str, Field(max_length=128)], Text] = Field(
        {}, max_length=64, description="As if the first bytes had told them: http.path, tls.sni and the like."
    )


class Explanation(View):
    """What would become of it."""

    appid: AppId = Field(description="The client.")
    to: str = Field(description="Address and port.")
    protocol: Proto
    allowed: bool
    rule: str = Field(
        description="The policies that decided, with commas between; (policy) for who is no administrator; or nothing."
    )
    error: str = Field(description="What connect(2) fails with; or nothing.")
    steps: list[str] = Field(
        description="Sentences in the order of the decision. Only the last of them, the verdict, for who may not see "
        "what others have configured."
    )


@router.post("/explain")
async def explain(asked: ExplainRequest, parts: TheParts, caller: TheCaller) -> Explanation:
    """What would become of a connection, and why. Nothing is changed, nothing is connected."""
    client, notes = _client(asked.from_, parts, caller)
    to = str(_address(asked.to, parts, caller))
    answer = await parts.registry.link.explain(
        lambda seq: Explain(
            seq=seq,
            client=client.id,
            to=to,
            protocol=asked.protocol,
            uid=asked.uid,
            executable=asked.executable,
            attributes=asked.attributes,
        )
    )
    if isinstance(answer, Done):
        raise ProblemError(answer.error if answer.error in SLUGS else "conflict", answer.detail or answer.error)
    return Explanation(
        appid=client.appid,
        to=to,
        protocol=asked.protocol,
        allowed=answer.allowed,
        rule=caller.rule(answer.rule),
        error=answer.error,
        steps=[*notes, *(answer.steps if caller.sees_all else [_verdict(answer, caller)])],
    )


def _verdict(answer: Explained, caller: Caller) -> str:
    """The last sentence, without names of what others have configured."""
    said = answer.steps[-1]
    if answer.rule:
        return said.replace(f", by {answer.rule}", f", by {caller.rule(answer.rule)}")
    return HANDED if said.startswith(f"{HANDED} ") else said


def _client(text: str, parts: Parts, caller: Caller) -> tuple[AppSpec, list[str]]:
    """The app, and what is to be said about the choice. Raises ProblemError."""
    apps = [app for app in parts.registry.apps() if caller.sees(app)]
    if _APPID.fullmatch(text) and (found := [app for app in apps if app.appid == text]):
        return found[0], []
    found = [app for app in apps if app.name == text.lower()]
    if not found:
        raise ProblemError("no-such-app", f"no app has the id or name {text}")
    several = f"{len(found)} apps are called {text}: this is about {found[0].appid}, the oldest"
    return found[0], [several] if len(found) > 1 else []


def _address(text: str, parts: Parts, caller: Caller) -> Address:
    """Raises ProblemError."""
    match = _ADDRESS.fullmatch(text)
    if match is not None:
        try:
            ip = ip_bytes(match["v6"] or match["v4"])
        except ValueError:
            raise _invalid(f"{text!r} holds no IP address: {_FORMS}") from None
        if (len(ip) == 16) != (match["v6"] is not None):
            raise _invalid(f"{text!r}: only IPv6 addresses are in brackets")
        return Address(unmap(ip), _port(match["port"]))
    match = _NAME.fullmatch(text)
    if match is None:
        raise _invalid(f"{text!r} is not where a connection can go: {_FORMS}")
    if match["port"] is None and _is_ip(text):
        raise _invalid(f"{text} is an address: give a port, too, {text}:PORT")
    name = match["name"].lower().removesuffix(".").removesuffix(f".{parts.settings.dns_domain}")
    return _named(name, _port(match["port"]) if match["port"] else None, parts, caller)


def _is_ip(text: str) -> bool:
    try:
        ip_bytes(text)
    except ValueError:
        return False
    return True


def _named(name: str, port: int | None, parts: Parts, caller: Caller) -> Address:
    vservice = next((one for one in _vservices(parts) if one.name == name), None)
    if vservice is not None:
        if port is None and len(vservice.ports) != 1:
            ports = ", ".join(str(one.port) for one in vservice.ports)
            raise _invalid(f"vservice {name} has several ports: give one, such as {name}:PORT ({ports})")
        return Address(ip_bytes(vservice.ips[0]), vservice.ports[0].port if port is None else port)
    ips = [ip for app in parts.registry.apps() if app.name == name and caller.sees(app) for ip in app.ips]
    if not ips:
        raise ProblemError("no-such-app", f"no app with an address and no vservice is called {name}")
    if port is None:
        raise _invalid(f"{name} is an app: give a port, too, {name}:PORT")
    return Address(ip_bytes(ips[0]), port)


def _vservices(parts: Parts) -> Iterator[VService]:
    """As the switch is told them."""
    for part in parts.registry.link.configuration():
        yield from part.vservices


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65535:
        raise _invalid(f"{port} is not a port: there are 1 to 65535")
    return port


def _invalid(detail: str) -> ProblemError:
    return ProblemError("invalid", f"to: {detail}", [{"path": ["to"], "detail": detail}])
