"""What policies cost a decision, however many there are. Pure: no daemon has a part in it."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator

from appswitch.resources import Policy, PortRange, Selector
from appswitch.routing.policy import End, Policies
from bench.cases import Run
from bench.pairing import Figure, Target, ratios, take_turns

COUNTS = (10, 1_000, 10_000)  # policies
APPS = 500  # whose connections are decided about, as many whatever the number of policies
FLOWS = 2_000  # of these apps, that differ
# Remembered: the same connection again. New: the first since a policy was changed.
WHAT = {"remembered": Target(at_most=1.2), "new": None}


def measure(run: Run) -> Iterator[Figure]:
    """Processor time of a decision, as a ratio to that with the fewest policies."""
    subjects = {f"{what} {count}": turn for count in COUNTS for what, turn in _turns(Policies(policies_of(count)))}
    results = take_turns(subjects, run.turns)
    least = COUNTS[0]
    for what, target in WHAT.items():
        for count in COUNTS:
            ours, base = results[f"{what} {count}"], results[f"{what} {least}"]
            if count == least:
                continue
            yield Figure(
                name=f"policies.{what}.{count}",
                what=f"a decision ({what}) with {count:,} policies, to {least}",
                unit="x",
                samples=ratios(ours, base),
                target=target,
                sides={f"{number:,}": statistics.median(results[f"{what} {number}"]) for number in (count, least)},
                side_unit="us",
            )


def _turns(policies: Policies) -> Iterator[tuple[str, Callable[[], float]]]:
    flows = [(_end(number), _end(number * 7 + 1), 80) for number in range(FLOWS)]
    changing = itertools.count()

    def decide() -> float:
        began = time.process_time_ns()
        for client, server, port in flows:
            policies.decide(client, server, port, "tcp")
        return (time.process_time_ns() - began) / len(flows) / 1000

    def after_a_change() -> float:
        policies.put(Policy(name="changed", action="deny", to=(Selector(names=("nobody",)),), order=next(changing)))
        return decide()

    def again() -> float:
        decide()
        return decide()

    yield "remembered", again
    yield "new", after_a_change


def _end(number: int) -> End:
    """FLOWS pairs of these differ, though apps are fewer: some come from several addresses."""
    app = number % APPS
    labels = frozenset({("app", f"app{app}"), ("zone", "default"), ("team", f"team{app % 20}")})
    return End(number, f"app{app}-{number % 3}", (), labels, bytes((10, 1, number >> 8 & 255, number & 255)))


def policies_of(count: int) -> Iterator[Policy]:
    """Each app has a few of its own, as they are written: by labels, names, networks, of either direction."""
    kinds = itertools.cycle((_from_label, _from_network, _egress, _not_from, _outside))
    return (kind(number) for number, kind in zip(range(count), kinds, strict=False))


def _from_label(number: int) -> Policy:
    return Policy(
        name=f"p{number}",
        action="allow",
        from_=(Selector(labels={"app": f"app{number + 1}"}), Selector(labels={"team": f"team{number % 20}"})),
        to=(Selector(labels={"zone": "default", "app": f"app{number}"}),),
        ports=(PortRange(80, 80), PortRange(8000, 8999, "tcp")),
    )


def _from_network(number: int) -> Policy:
    network = f"10.{number >> 8 & 255}.{number & 255}.0/24"
    to = Selector(names=(f"app{number}-*",))
    return Policy(name=f"p{number}", action="allow", from_=(Selector(networks=(network,)),), to=(to,))


def _egress(number: int) -> Policy:
    to = (Selector(names=(f"app{number}-1",)), Selector(networks=("10.0.0.0/8",)))
    from_ = (Selector(labels={"app": f"app{number}"}),)
    return Policy(name=f"p{number}", action="allow", direction="egress", from_=from_, to=to)


def _not_from(number: int) -> Policy:
    from_ = (Selector(names=(f"app{number}-0",)),)
    return Policy(name=f"p{number}", action="deny", from_=from_, to=(Selector(labels={"app": f"app{number + 3}"}),))


def _outside(number: int) -> Policy:
    network = f"198.18.{number >> 8 & 255}.{number & 255}/32"
    return Policy(name=f"p{number}", action="deny", to=(Selector(networks=(network,)),))
