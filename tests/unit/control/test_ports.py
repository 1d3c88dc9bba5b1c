"""Host ports for those who name none."""

from __future__ import annotations

import socket

import pytest

from appswitch.control.ports import draw, is_free
from appswitch.control.problems import ProblemError
from appswitch.model import Expose

RANGES = (range(40000, 40003), range(50000, 50001))


def test_only_what_is_not_given_is_drawn() -> None:
    given = (Expose(80, 8080), Expose(81, 0, "127.0.0.1", "udp"), Expose(82, 0), Expose(83, 40001))
    made = draw(given, RANGES, {40000}, lambda _: True)
    assert (made[0], made[3]) == (given[0], given[3])
    assert {one.host_port for one in made[1:3]} == {40002, 50000}
    assert (made[1].host_ip, made[1].protocol) == ("127.0.0.1", "udp")


def test_who_is_taken_by_others_of_the_host_is_left_alone() -> None:
    (one,) = draw((Expose(80, 0),), RANGES, (), lambda one: one.host_port == 40002)
    assert one.host_port == 40002


def test_none_is_left() -> None:
    with pytest.raises(ProblemError, match="no port of the host is left for 80"):
        draw((Expose(80, 0),), RANGES, {40000, 40001, 40002, 50000}, lambda _: True)
    with pytest.raises(ProblemError):
        draw((Expose(80, 0),), RANGES, (), lambda _: False)


@pytest.mark.parametrize(("family", "ip"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
@pytest.mark.parametrize(("kind", "protocol"), [(socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")])
def test_what_is_free(family: int, ip: str, kind: int, protocol: str) -> None:
    other = "udp" if protocol == "tcp" else "tcp"
    seen = []
    for _ in range(5):
        with socket.socket(family, kind) as holder:
            holder.bind((ip, 0))
            port = holder.getsockname()[1]
            for taken in (Expose(80, port), Expose(80, port, ip), Expose(80, port, protocol=protocol)):  # type: ignore[arg-type]
                assert not is_free(taken)
            seen.append(is_free(Expose(80, port, protocol=other)))  # type: ignore[arg-type]
    assert any(seen), "somebody of this host may have one of them"
