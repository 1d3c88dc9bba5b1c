"""Errors as RFC 9457 problem details. The slug, the last part of ``type``, is stable: programs may rely on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PREFIX = "urn:appswitch:problem:"

# slug: (status, title)
SLUGS: dict[str, tuple[int, str]] = {
    "malformed-json": (400, "The body is not JSON"),
    "bad-request": (400, "The request cannot be understood"),
    "bad-token": (401, "The token is not valid"),
    "forbidden": (403, "You may not do this"),
    "ip-forbidden": (403, "The address is not yours to take"),
    "privileged-port": (403, "Ports below 1024 need root"),
    "read-only": (403, "Only reading is allowed here"),
    "not-found": (404, "There is nothing at this path"),
    "no-such-app": (404, "There is no such app"),
    "no-such-resource": (404, "There is no such resource"),
    "method-not-allowed": (405, "This path does not know the method"),
    "already-exists": (409, "The resource exists"),
    "app-running": (409, "The app is running"),
    "conflict": (409, "The request conflicts with what is there"),
    "dns-off": (409, "The daemon answers no DNS queries"),
    "ip-in-use": (409, "The address is another user's"),
    "name-in-use": (409, "The name is another user's"),
    "port-in-use": (409, "The port is in use"),
    "too-large": (413, "The body is too large"),
    "misdirected": (421, "This host is not served here"),
    "invalid": (422, "The request is not valid"),
    "too-many": (429, "Too many registrations are waiting"),
    "too-many-connections": (429, "Too many connections at a time"),
    "pool-exhausted": (507, "No address is left"),
    "not-stored": (507, "The state cannot be written"),
    "internal": (500, "An error of the daemon's own"),
    "stopping": (503, "The daemon is stopping"),
    "switch-unavailable": (503, "The switch does not answer"),
}


class ProblemError(Exception):
    """What a handler raises to answer with an error."""

    def __init__(
        self,
        slug: str,
        detail: str,
        errors: list[dict[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.slug = slug
        self.status, self.title = SLUGS[slug]
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
        if slug == "bad-token":
            self.headers["WWW-Authenticate"] = 'Bearer realm="appswitch"'
        if self.status == 503:
            self.headers["Retry-After"] = "1"

    def body(self, instance: str | None) -> dict[str, Any]:
        """The members of RFC 9457 section 3.1; ``errors`` lists the fields at fault."""
        found: dict[str, Any] = {
            "type": PREFIX + self.slug,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if instance is not None:
            found["instance"] = instance
        if self.errors is not None:
            found["errors"] = self.errors
        return found
