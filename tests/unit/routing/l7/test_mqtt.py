"""MQTT: CONNECT of its three versions."""

from __future__ import annotations

import pytest
from tests.unit.routing.l7.messages import mqtt_connect, vector

from appswitch.routing.l7 import UNKNOWN, Peeked, peek

CLIENT, USER, PASSWORD, WILL = 2, 0x80, 0x40, 0x04
SENSOR, JOE, SECRET = vector(2, b"sensor"), vector(2, b"joe"), vector(2, b"secret")
TOPIC, PAYLOAD = vector(2, b"gone"), vector(2, b"\xff" * 10)
EXPIRY = b"\5\x11\0\0\0\x3c"  # properties: a session expiry interval


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (mqtt_connect(SENSOR), {"mqtt.client_id": "sensor"}),
        (mqtt_connect(vector(2, b"")), {}),
        (mqtt_connect(SENSOR + JOE, USER), {"mqtt.client_id": "sensor", "mqtt.user": "joe"}),
        (mqtt_connect(SENSOR + JOE + SECRET, USER | PASSWORD), {"mqtt.client_id": "sensor", "mqtt.user": "joe"}),
        (mqtt_connect(SENSOR + SECRET, PASSWORD, 5, properties=b"\0"), {"mqtt.client_id": "sensor"}),
        (mqtt_connect(SENSOR + TOPIC + PAYLOAD + JOE, WILL | USER), {"mqtt.client_id": "sensor", "mqtt.user": "joe"}),
        (mqtt_connect(SENSOR + JOE, USER, 3, b"MQIsdp"), {"mqtt.client_id": "sensor", "mqtt.user": "joe"}),
        (mqtt_connect(SENSOR + JOE, USER, 0x84), {"mqtt.client_id": "sensor", "mqtt.user": "joe"}),
        (
            mqtt_connect(SENSOR + EXPIRY + TOPIC + PAYLOAD + JOE, WILL | USER, 5, properties=EXPIRY),
            {"mqtt.client_id": "sensor", "mqtt.user": "joe"},
        ),
    ],
)
def test_connect(data: bytes, expected: dict[str, str]) -> None:
    assert peek(data, final=False) == Peeked("mqtt", expected)


def test_the_password_is_not_waited_for() -> None:
    data = mqtt_connect(SENSOR + JOE + SECRET, USER | PASSWORD)
    assert peek(data[: -len(SECRET)], final=False) == peek(data, final=False)


def test_half_a_packet_is_mqtt_in_the_end() -> None:
    data = mqtt_connect(SENSOR)
    assert peek(data[:-1], final=False) is None
    assert peek(data[:-1], final=True) == Peeked("mqtt", {})


@pytest.mark.parametrize(
    "data",
    [
        b"\x11\x0c\0\4MQTT",
        b"\x10\xff\xff\xff\xff\x01\0\4MQTT",
        mqtt_connect(SENSOR, level=6),
        mqtt_connect(SENSOR, level=3),
        mqtt_connect(SENSOR, flags=1),
        mqtt_connect(b"\0\7sensor"),
        mqtt_connect(SENSOR, USER),
        mqtt_connect(SENSOR, level=5, properties=b"\xff\xff\xff\xff\x7f"),
        mqtt_connect(SENSOR, level=5, properties=b"\x7f"),
    ],
)
def test_malformed(data: bytes) -> None:
    assert peek(data, final=False) is UNKNOWN
