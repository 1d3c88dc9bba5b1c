"""The REST API of a real daemon, against the OpenAPI document that it serves itself: schemathesis.

Whatever is sent, the answer is one that the document has, in the form that it says, and never an error of the daemon's
own. The daemon is on a node of its own: some requests open ports of the host.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from e2e.node import Namespaces, NodeDaemon
from harness import Daemon
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

DEADLINE = 20.0  # seconds
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "2"))  # of each operation
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
STREAMS = ("/v1/events", "/v1/flows")  # may go on for ever: they are asked for what they say at once
BUSY = (503, 507)  # the daemon's limits, by their documented names
pytestmark = pytest.mark.timeout(240 + 100 * EXAMPLES)


@pytest.fixture(scope="module")
def node() -> Iterator[Daemon]:
    with Namespaces() as namespaces, NodeDaemon(namespaces.node) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def client(node: Daemon) -> Iterator[httpx.Client]:
    """An administrator, over the Unix socket."""
    once = httpx.Limits(max_keepalive_connections=0)
    transport = httpx.HTTPTransport(uds=str(node.run_dir / "rest.sock"), limits=once)
    with httpx.Client(transport=transport, base_url="http://localhost", timeout=DEADLINE) as one:
        yield one


@pytest.fixture(scope="module")
def operations(client: httpx.Client) -> dict[str, Any]:
    """By their names, as the daemon says."""
    document = client.get("/v1/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    found = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        found[f"{operation.method.upper()} {operation.path}"] = operation
    return found


def test_every_operation(node: Daemon, client: httpx.Client, operations: dict[str, Any]) -> None:
    """Requests as the document allows them, and requests that it does not."""
    before = set(node.processes())
    asked: dict[str, int] = {}
    for name, operation in operations.items():
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            with contextlib.suppress(Unsatisfiable):  # without parameters there is nothing to be wrong
                _ask_all(client, name, operation.as_strategy(generation_mode=mode), asked)
    assert asked.keys() == operations.keys()
    assert set(node.processes()) == before, f"a process was started again\n{node.output[-3000:]}"
    assert "Traceback" not in node.output, node.output[-3000:]
    assert node.differences() == []
    print(f"{sum(asked.values())} requests to {len(asked)} operations")


def _ask_all(client: httpx.Client, name: str, cases: st.SearchStrategy[Any], asked: dict[str, int]) -> None:
    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(cases)
    def one(case: Any) -> None:
        asked[name] = asked.get(name, 0) + 1
        ask(client, case)

    one()


def ask(client: httpx.Client, case: Any) -> None:
    arguments = case.as_transport_kwargs(base_url="http://localhost")
    request = client.build_request(
        arguments["method"],
        arguments["url"],
        params=arguments.get("params"),
        headers={key: value for key, value in (arguments.get("headers") or {}).items() if _sendable(value)},
        content=_content(arguments),
    )
    if case.operation.path in STREAMS:
        with client.stream(request.method, request.url, headers=request.headers) as answer:
            assert answer.status_code < 500, answer
        return
    answer = client.send(request)
    if answer.status_code not in BUSY:
        case.validate_response(answer, checks=CHECKS)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["detail"], "every error says something"
        assert problem["type"].startswith("urn:appswitch:problem:")


def _content(arguments: dict[str, Any]) -> bytes | None:
    if "json" in arguments:
        return json.dumps(arguments["json"]).encode()
    data = arguments.get("data")
    return data.encode() if isinstance(data, str) else data if isinstance(data, bytes) else None


def _sendable(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable()


@settings(max_examples=10 * EXAMPLES, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["/v1/apps", "/v1/apply", "/v1/explain", "/v1/vservices", "/v1/policies/x"]),
    st.sampled_from(["POST", "PUT"]),
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
            max_leaves=15,
        ).map(lambda one: json.dumps(one).encode()),
        st.integers(1, 50_000).map(lambda depth: b"[" * depth + b"]" * depth),
        st.integers(1, 5_000).map(lambda depth: b'{"spec":' * depth + b"1" + b"}" * depth),
    ),
)
def test_any_body(client: httpx.Client, path: str, method: str, body: bytes) -> None:
    """Whatever is no JSON, or JSON that nobody meant, or is nested without end."""
    answer = client.request(method, path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code < 500 or answer.status_code in BUSY, (answer, answer.text)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
