"""Keepalive pings of clients do not end their connections."""

import time

import pytest

from api.grpc import server as grpc_server
from tests.support.raw_http2 import HalfCall, RawCall
from tests.support.running import running

UNARY = f"/{grpc_server.SERVICE_NAME}/TranscribeAudio"
CHECK = "/grpc.health.v1.Health/Check"
EMPTY_MESSAGE = bytes(5)  # neither compressed nor long
INTERVAL_S = 0.05
PINGS = 8  # gRPC ends the connection after three that come too soon


@pytest.mark.parametrize("in_call", [True, False], ids=["during a call", "between calls"])
def test_pings_at_the_allowed_interval_keep_the_connection(monkeypatch: pytest.MonkeyPatch, in_call: bool) -> None:
    monkeypatch.setattr(grpc_server, "MIN_PING_INTERVAL_S", INTERVAL_S)
    with (
        running() as server,
        HalfCall(server.port, UNARY) if in_call else RawCall(server.port, CHECK, EMPTY_MESSAGE, ends=True) as call,
    ):
        for _ in range(PINGS):
            call.wait_until_received()  # by a ping
            time.sleep(2 * INTERVAL_S)


def test_pings_that_come_too_often_end_the_connection() -> None:
    """As a protection against floods; the interval is the real one here."""
    with running() as server, HalfCall(server.port, UNARY) as call, pytest.raises((AssertionError, ConnectionError)):
        for _ in range(PINGS):
            call.wait_until_received()


def test_allowed_interval_leaves_room_for_clients_that_ping_every_ten_seconds() -> None:
    assert grpc_server.MIN_PING_INTERVAL_S <= 5
