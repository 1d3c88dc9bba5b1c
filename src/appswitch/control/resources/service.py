"""The one writer of resources: a change is judged, put on disk, told to the switch, and then answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec
import structlog

from appswitch import wire
from appswitch.control.access import Caller
from appswitch.control.link import SwitchDownError, SwitchLink
from appswitch.control.problems import ProblemError
from appswitch.control.registry import Registry
from appswitch.control.resources import documents
from appswitch.control.resources.catalog import Catalog, Entry, Key
from appswitch.control.resources.documents import Document, PolicyDocument, VServiceDocument
from appswitch.control.resources.judge import Judge
from appswitch.control.resources.store import Store, StoreError
from appswitch.model import ConnectionRow
from appswitch.resources import KINDS, Kind, Policy, Proxy, Reference, Resource, VService

CHUNK = 250  # resources of one message to the switch
CHUNK_BYTES = 8 << 20  # and roughly their bytes: `wire.MAX_FRAME` is far
TURN = 0.02  # seconds of judging after which others have their turn

Result = Literal["created", "changed", "unchanged", "deleted", "rejected"]

_log = structlog.get_logger(part="resources")


class Put(msgspec.Struct, frozen=True):
    """Make or replace what a document says: one that was checked, or anything that may be one."""

    document: Any
    new: bool = False  # it must not be there yet


class Remove(msgspec.Struct, frozen=True):
    """Take one away."""

    kind: Kind
    name: str


Change = Put | Remove


class Outcome(msgspec.Struct, frozen=True):
    """What became of a change. ``kind`` and ``name`` are empty where the document does not say."""

    kind: str
    name: str
    result: Result
    entry: Entry | None = None
    problem: ProblemError | None = None


class Resources:
    """All that users have configured. ``on_change`` is told of resources that are new, different or gone."""

    def __init__(self, link: SwitchLink, registry: Registry, store: Store) -> None:
        self.catalog = registry.catalog
        self.on_change: list[Callable[[Sequence[Resource]], None]] = []
        self._link = link
        self._registry = registry
        self._store = store
        self._lock = asyncio.Lock()
        self._order = 0
        link.configuration = self.configuration

    def load(self) -> None:
        """Read what was stored. Raises StoreError."""
        for entry in self._store.load():
            self.catalog.put(entry)
            self._order = max(self._order, entry.order)

    def close(self) -> None:
        """The daemon ends."""
        self._store.close()

    def configuration(self) -> Iterator[wire.Configure]:
        """All of it, as a switch that knows nothing has to be told."""
        chunks = list(_chunks(one.resource for one in self.catalog.entries()))
        for number, chunk in enumerate(chunks or [()]):
            yield _configure(0, chunk, reset=number == 0, done=number >= len(chunks) - 1)

    async def change(self, changes: Sequence[Change], caller: Caller, *, dry_run: bool = False) -> list[Outcome]:
        """Each change is judged alone, after those before it. What is good is done, all at once.

        Raises ProblemError where nothing can be done, SwitchDownError before anything is.
        """
        if self._registry.stopping:
            raise ProblemError("stopping", "the daemon is about to end")
        caller.must_write()
        async with self._lock:
            await self._link.synced()
            before = self.catalog
            draft = before.draft()
            try:
                outcomes = await self._judge_all(draft, changes, caller)
                done = [one for one in outcomes if one.result in ("created", "changed", "deleted")]
                if dry_run or not done:
                    return outcomes
                await self._write(done)
                before.adopt()
            finally:
                before.give_up()
            for tell in self.on_change:
                tell([one.entry.resource for one in done if one.entry])
            await self._send(done)
        return outcomes

    async def kill_forbidden(self, caller: Caller) -> tuple[ConnectionRow, ...]:
        """Close the connections that policies forbid now. Raises ProblemError, SwitchDownError."""
        may_kill(caller)
        return await self._link.kill_forbidden()

    # Judging

    async def _judge_all(self, draft: Catalog, changes: Sequence[Change], caller: Caller) -> list[Outcome]:
        outcomes: list[Outcome] = []
        seen: set[Key] = set()
        judge = Judge(draft, self._registry.claims, self._registry.roster, caller)
        begun = time.monotonic()
        for change in changes:
            if time.monotonic() - begun > TURN:
                await asyncio.sleep(0)
                begun = time.monotonic()
            outcomes.append(self._judge_one(draft, judge, change, caller, seen))
        return outcomes

    def _judge_one(self, draft: Catalog, judge: Judge, change: Change, caller: Caller, seen: set[Key]) -> Outcome:
        kind, name = _called(change)
        try:
            if isinstance(change, Remove):
                return self._removed(draft, judge, change, caller)
            document = change.document
            parsed = document if isinstance(document, Document) else documents.parse(document)
            kind, name = parsed.kind, parsed.metadata.name
            if (parsed.kind, name) in seen:
                raise documents.invalid([{"path": ["metadata", "name"], "detail": f"{name} is there twice"}])
            seen.add((parsed.kind, name))
            return self._put(draft, judge, parsed, caller, new=change.new)
        except ProblemError as err:
            return Outcome(kind, name, "rejected", problem=err)

    def _removed(self, draft: Catalog, judge: Judge, change: Remove, caller: Caller) -> Outcome:
        entry = draft.get(change.kind, change.name)
        if entry is None or not caller.sees_owner(entry.resource.uid):
            raise missing(change.kind, change.name)
        judge.may_change(entry.resource, own=True)
        draft.remove(entry.key)
        return Outcome(change.kind, change.name, "deleted", entry)

    def _put(self, draft: Catalog, judge: Judge, document: Document, caller: Caller, *, new: bool) -> Outcome:
        kind, name = document.kind, document.metadata.name
        old = draft.get(kind, name)
        if old is not None:
            if new and caller.sees_owner(old.resource.uid):
                raise ProblemError("already-exists", f"there is a {kind.lower()} {name} already")
            if not caller.admin and old.resource.uid != caller.uid:
                raise ProblemError("name-in-use", f"{name} is the name of something of another user's")
        entry = self._made(document, old, caller)
        judge.may_change(entry.resource, own=old is not None)
        judge.check(entry.resource, drawn=entry.drawn, new=old is None)
        if old is not None and (old.resource, old.drawn) == (entry.resource, entry.drawn):
            return Outcome(kind, name, "unchanged", old)
        draft.put(entry)
        return Outcome(kind, name, "changed" if old else "created", entry)

    def _made(self, document: Document, old: Entry | None, caller: Caller) -> Entry:
        """Whoever made it first owns it. Addresses that were drawn stay."""
        name = document.metadata.name
        uid = old.resource.uid if old else caller.uid
        order = old.order if old else self._order + 1
        self._order = max(self._order, order)
        drawn = False
        resource: Resource
        if isinstance(document, VServiceDocument):
            drawn = not document.spec.ips
            ips: Sequence[str] = document.spec.ips
            if drawn:
                kept = old.resource.ips if old and old.drawn and isinstance(old.resource, VService) else ()
                ips = kept or self._registry.claims.draw()
            resource = document.spec.made(name, ips, uid)
        elif isinstance(document, PolicyDocument):
            resource = document.spec.made(name, uid, order)
        else:
            resource = document.spec.made(name, uid)
        return Entry(
            resource=resource,
            created=old.created if old else time.time(),
            generation=old.generation + 1 if old else 1,
            drawn=drawn,
            order=order,
        )

    # Doing

    async def _write(self, done: Sequence[Outcome]) -> None:
        """Off the loop: a disk may take its time."""
        entries = [one.entry for one in done if one.entry and one.result != "deleted"]
        removed = [one.entry.key for one in done if one.entry and one.result == "deleted"]
        try:
            await asyncio.to_thread(self._store.write, entries, removed)
        except StoreError as err:
            _log.error("a change is lost", error=str(err))
            raise ProblemError("not-stored", f"nothing was changed: {err}") from None

    async def _send(self, done: Sequence[Outcome]) -> None:
        resources = [one.entry.resource for one in done if one.entry and one.result != "deleted"]
        gone = tuple((one.kind, one.name) for one in done if one.result == "deleted")
        try:
            for number, chunk in enumerate(list(_chunks(resources)) or [()]):
                remove = gone if number == 0 else ()
                await self._link.configure(
                    lambda seq, chunk=chunk, remove=remove: _configure(seq, chunk, remove=remove)  # type: ignore[misc]
                )
        except SwitchDownError as err:
            detail = f"the change is stored, and the switch gets it when it is back: {err}"
            raise ProblemError("switch-unavailable", detail) from None


def may_kill(caller: Caller) -> None:
    """Raises ProblemError unless connections of everybody are the caller's to close."""
    if not caller.admin:
        raise ProblemError("forbidden", "only administrators close connections that policies forbid")


def missing(kind: Kind, name: str) -> ProblemError:
    """There is none, or none that the caller may see."""
    return ProblemError("no-such-resource", f"there is no {kind.lower()} {name}")


def _called(change: Change) -> tuple[str, str]:
    """What a document that may be wrong says that it is."""
    if isinstance(change, Remove):
        return change.kind, change.name
    document = change.document
    if isinstance(document, Document):
        return document.kind, document.metadata.name
    kind = document.get("kind") if isinstance(document, dict) else None
    metadata = document.get("metadata") if isinstance(document, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return kind if kind in KINDS else "", name if isinstance(name, str) else ""


def _chunks(resources: Iterable[Resource]) -> Iterator[tuple[Resource, ...]]:
    chunk: list[Resource] = []
    size = 0
    for one in resources:
        length = len(msgspec.msgpack.encode(one))
        if chunk and (len(chunk) >= CHUNK or size + length > CHUNK_BYTES):
            yield tuple(chunk)
            chunk, size = [], 0
        chunk.append(one)
        size += length
    if chunk:
        yield tuple(chunk)


def _configure(
    seq: int,
    resources: Sequence[Resource],
    *,
    reset: bool = False,
    done: bool = True,
    remove: tuple[tuple[str, str], ...] = (),
) -> wire.Configure:
    return wire.Configure(
        seq=seq,
        reset=reset,
        done=done,
        vservices=tuple(one for one in resources if isinstance(one, VService)),
        policies=tuple(one for one in resources if isinstance(one, Policy)),
        references=tuple(one for one in resources if isinstance(one, Reference)),
        proxies=tuple(one for one in resources if isinstance(one, Proxy)),
        remove=remove,
    )
