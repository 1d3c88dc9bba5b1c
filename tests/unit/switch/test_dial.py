"""One backend after the other: who is tried, in which order, and what the balancer is told."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.switch.fake import PATIENCE, FakeSwitch, address

from appswitch import _kernel
from appswitch._kernel import Fd
from appswitch.kernel import sockaddr
from appswitch.kernel.sockaddr import AF_INET
from appswitch.resources import BackendSpec, Limits, Outlier, Policy, Selector
from appswitch.switch import dial as module
from appswitch.switch.dial import Dial, Dialled, living

TO = "10.9.0.1:80"
OUTSIDE = ("192.0.2.1:8080", "192.0.2.2:8080", "192.0.2.3:8080")


def dial(fake: FakeSwitch, *backends: str, families: tuple[int, ...] = (4, 16), **more: Any) -> Dial:
    """A connection of an app to a vservice with these backends outside."""
    fake.vservice("web", "10.9.0.1", "80", *(BackendSpec(external=one) for one in backends), **more)
    client = fake.apps.get(1) or fake.app(1, "10.0.0.1")
    return Dial(fake, fake.flow(client, TO), fake.balanced(client, TO), b"k", "", families)  # type: ignore[arg-type] # a switch


def tried(one: Dial) -> list[str]:
    """Everybody, one after the other: they all refuse."""
    found = []
    while (upstream := one.next()) is not None:
        found.append(str(upstream.address))
        one.failed(errno.ECONNREFUSED)
    return found


def test_everybody_is_tried_once(fake: FakeSwitch) -> None:
    assert sorted(tried(dial(fake, *OUTSIDE))) == list(OUTSIDE)


def test_the_next_connection_begins_with_the_next_backend(fake: FakeSwitch) -> None:
    first, second = dial(fake, *OUTSIDE), dial(fake, *OUTSIDE)
    begun = [str(one.current.address) for one in (first, second) if one.next() and one.current]
    assert begun == list(OUTSIDE[:2])


def test_the_last_error_is_what_the_client_hears(fake: FakeSwitch) -> None:
    one = dial(fake, *OUTSIDE[:2])
    for error in (errno.ETIMEDOUT, errno.EHOSTUNREACH):
        assert one.next()
        one.failed(error)
    assert one.next() is None
    assert (one.error, one.rule) == (errno.EHOSTUNREACH, "")


def test_an_ipv4_socket_goes_to_no_ipv6_address(fake: FakeSwitch) -> None:
    backends = ("[2001:db8::1]:80", "192.0.2.1:80")
    assert tried(dial(fake, *backends, families=(4,))) == ["192.0.2.1:80"]
    assert tried(dial(fake, *backends, families=(16,))) == ["[2001:db8::1]:80"]
    assert tried(dial(fake, "[2001:db8::1]:80", families=(4,))) == []


def test_who_is_forbidden_meanwhile_gets_no_turn(fake: FakeSwitch) -> None:
    one = dial(fake, *OUTSIDE)
    assert one.next()
    one.failed(errno.ETIMEDOUT)
    fake.policies.put(Policy(name="closed", action="deny", error="EPERM"))
    fake.table.changed()
    assert one.next() is None
    assert (one.error, one.rule) == (errno.EPERM, "closed")
    assert sum(one.balancer.pending(upstream.key) for upstream in one.verdict.upstreams) == 0


def test_a_change_that_is_about_others_changes_nothing(fake: FakeSwitch) -> None:
    one = dial(fake, *OUTSIDE)
    fake.policies.put(Policy(name="closed", action="deny", from_=(Selector(labels={"app": "other"}),)))
    fake.table.changed()
    assert sorted(tried(one)) == list(OUTSIDE)


def test_accounts(fake: FakeSwitch) -> None:
    one = dial(fake, *OUTSIDE[:1])
    upstream = one.next()
    assert upstream is not None
    key = upstream.key

    def count() -> tuple[int, int]:
        return one.balancer.pending(key), one.balancer.active(key)

    assert count() == (1, 0)
    one.succeeded()
    assert count() == (0, 1)
    for end in (lambda other: other.busy(), lambda other: other.failed(errno.ECONNREFUSED)):
        other = dial(fake, *OUTSIDE[:1])
        assert other.next()
        assert count() == (1, 1)
        end(other)
        assert count() == (0, 1)
    (row,) = one.balancer.rows(0.0)
    assert (row.total, row.failures) == (3, 1), "who has no room has not failed"


def test_who_waits_in_queues_is_counted_before_anybody_is_chosen(fake: FakeSwitch) -> None:
    """Made at once, and not accepted: the accounts say nothing of it."""
    limits = Limits(pending=2, error="ETIMEDOUT")
    one = dial(fake, *OUTSIDE[:1], limits=limits)
    upstream = one.verdict.upstreams[0]
    fake.census.then = lambda: one.balancer.set_active(upstream.key, 2, 2)
    assert one.next() is None
    assert (one.error, one.rule) == (errno.ETIMEDOUT, "limits")


def test_at_the_limit_the_kernel_is_asked_before_anybody_is_refused(fake: FakeSwitch) -> None:
    limits = Limits(connections=1, error="ETIMEDOUT")
    first = dial(fake, *OUTSIDE[:1], limits=limits)
    upstream = first.next()
    assert upstream is not None
    first.succeeded()
    second = dial(fake, *OUTSIDE[:1], limits=limits)
    assert second.next() is None
    assert (second.error, second.rule, fake.census.asked) == (errno.ETIMEDOUT, "limits", 1)
    fake.census.then = lambda: first.balancer.set_active(upstream.key, 0)  # it was closed
    assert dial(fake, *OUTSIDE[:1], limits=limits).next() is not None


def test_an_ejection_is_told_once(fake: FakeSwitch) -> None:
    outlier = Outlier(consecutive_failures=2, max_ejected_percent=100)
    for _ in range(2):
        tried(dial(fake, *OUTSIDE[:2], outlier=outlier))
    events = [fields["backend"] for event, fields in fake.lines if event == "backend ejected"]
    assert sorted(map(str, events)) == list(OUTSIDE[:2])


def test_one_of_the_living_listeners(fake: FakeSwitch) -> None:
    server = fake.app(2, "10.0.0.2", app="web")
    first, second = fake.listen(server, 8080), fake.listen(server, 8080)
    fake.vservice("web", "10.9.0.1", "80:8080", BackendSpec(labels={"app": "web"}))
    (upstream,) = fake.balanced(fake.app(1), TO).upstreams
    assert living(fake, upstream) is first  # type: ignore[arg-type] # a switch
    del fake.services.by_id[first.id]
    assert living(fake, upstream) is second  # type: ignore[arg-type] # a switch
    fake.services.by_id.clear()
    assert living(fake, upstream) is None  # type: ignore[arg-type] # a switch


# -- by TCP


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


def closed() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return f"127.0.0.1:{one.getsockname()[1]}"


def connect(fake: FakeSwitch, one: Dial, tcp: Fd) -> tuple[int, str]:
    """As `connecting` does, until somebody takes it or nobody is left: the errno, and to whom it is connected."""
    target = Dialled(fake, one, address("10.0.0.1:40000"), 1)  # type: ignore[arg-type] # a switch
    assert one.next()
    error, where = target.start(tcp, AF_INET)
    poll = select.poll()
    poll.register(tcp.fileno(), select.POLLOUT)
    while error == errno.EINPROGRESS:
        assert poll.poll(1000 * PATIENCE)
        error = _kernel.connect(tcp, where)
        if error not in (0, errno.EISCONN):
            again = target.again(tcp, AF_INET, error)
            error, where = (one.error, where) if again is None else (errno.EINPROGRESS, again)
    if error in (0, errno.EISCONN):
        target.succeeded()
        return 0, str(sockaddr.decode(where))
    return error, ""


def test_over_tcp_the_one_that_refuses_is_passed_over(fake: FakeSwitch, server: socket.socket) -> None:
    there = f"127.0.0.1:{server.getsockname()[1]}"
    for turn in range(2):  # whoever begins
        tcp = Fd(socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK).detach())
        one = dial(fake, closed(), there)
        assert connect(fake, one, tcp) == (0, there)
        assert one.current is not None
        assert one.balancer.active(one.current.key) == turn + 1
        server.accept()[0].close()
        tcp.close()


def test_over_tcp_nobody_is_there(fake: FakeSwitch) -> None:
    tcp = Fd(socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK).detach())
    assert connect(fake, dial(fake, closed(), closed()), tcp)[0] == errno.ECONNREFUSED
    tcp.close()


def test_where_very_many_fail_at_once_the_rest_is_not_tried(fake: FakeSwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 3)
    tried: list[bytes] = []
    monkeypatch.setattr(_kernel, "connect", lambda _fd, where: (tried.append(where), errno.ENETUNREACH)[1])
    one = dial(fake, *(f"192.0.2.{number}:80" for number in range(1, 9)))
    target = Dialled(fake, one, address("10.0.0.1:40000"), 1)  # type: ignore[arg-type] # a switch
    assert one.next()
    tcp = _kernel.socket(AF_INET, socket.SOCK_STREAM, 0)
    assert target.start(tcp, AF_INET) == (errno.ENETUNREACH, b"")
    assert len(tried) == len(set(tried)) == 3
    assert not any(one.balancer.pending(address(f"192.0.2.{number}:80")) for number in range(1, 9))


def test_patience_is_for_who_has_somebody_else(fake: FakeSwitch) -> None:
    def patience(one: Dial) -> float | None:
        return Dialled(fake, one, address("10.0.0.1:40000"), 1).patience  # type: ignore[arg-type] # a switch

    outlier = Outlier(connect_timeout=1.5)
    assert patience(dial(fake, *OUTSIDE, outlier=outlier)) == 1.5
    assert patience(dial(fake, *OUTSIDE[:1], outlier=outlier)) is None
