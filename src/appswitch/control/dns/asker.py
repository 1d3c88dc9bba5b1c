"""Who asks: what of an app decides the answers it gets."""

from __future__ import annotations

import msgspec

from appswitch.model import AppSpec

Labels = tuple[bytes, ...]  # of a DNS name in lower case, without the root's


class NameRule(msgspec.Struct, frozen=True):
    """The name of an egress rule: ``*.example.com`` is every name below example.com, not example.com itself."""

    text: str
    below: bool
    labels: Labels

    def covers(self, name: Labels) -> bool:
        """Label by label: a dot within a label is none between two."""
        if self.below:
            return len(name) > len(self.labels) and name[-len(self.labels) :] == self.labels
        return name == self.labels


class Asker(msgspec.Struct, frozen=True):
    """An app as the zone and the permits see it."""

    app_id: int
    labels: frozenset[tuple[str, str]]
    rules: tuple[NameRule, ...] = ()

    def matching(self, name: Labels) -> tuple[str, ...]:
        """The names of rules that cover ``name``, as they are in the rules."""
        return tuple(rule.text for rule in self.rules if rule.covers(name))


def asker(app: AppSpec) -> Asker:
    """Of what was registered."""
    names = dict.fromkeys(rule.name for rule in app.egress.rules if rule.name)
    return Asker(app.id, frozenset(app.labels.items()), tuple(map(_rule, names)))


def _rule(name: str) -> NameRule:
    below = name.startswith("*.")
    return NameRule(name, below, tuple(label.encode() for label in name[2 if below else 0 :].lower().split(".")))
