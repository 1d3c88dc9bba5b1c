"""Egress rules that name names: the switch learns an app's addresses before the app does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from appswitch.control.link import SwitchDownError
from appswitch.wire import Done

MIN_SECONDS = 60  # an app connects later than it asks, and again without asking

Permit = Callable[[int, str, tuple[str, ...], float], Awaitable[Done]]  # link.SwitchLink.permit

_log = structlog.get_logger(part="dns")


async def grant(permit: Permit, app_id: int, rules: tuple[str, ...], ips: tuple[str, ...], ttl: float) -> bool:
    """Have the switch judge by the rules what the app does with these addresses. False: it does not do so now."""
    try:
        for rule in rules:
            done = await permit(app_id, rule, ips, max(ttl, MIN_SECONDS))
            if done.error:
                _log.warning("the switch refused a permit", appid=f"{app_id:08x}", rule=rule, error=done.error)
                return False
    except SwitchDownError as err:
        _log.warning("no permit", appid=f"{app_id:08x}", error=str(err))
        return False
    return True
