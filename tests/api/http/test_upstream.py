"""How a call to the service ended, where grpc.aio says two things about it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from api.http.upstream import Ending
from tests.support.http_gateway import RunningGateway, gateway
from tests.support.speech import SAMPLES

SERVERS = (grpc.StatusCode.UNAUTHENTICATED, "no token", (("x-error-code", "NO_TOKEN"),))
ITS_OWN = (grpc.StatusCode.INTERNAL, "Internal error from Core", ())


class FakeCall:
    """A call whose status is set more than once."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Any], None]] = []
        self._status: tuple[Any, ...] = ()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def end(self, status: tuple[Any, ...]) -> None:
        self._status = status
        for callback in self._callbacks:
            callback(self)

    async def code(self) -> grpc.StatusCode:
        return self._status[0]

    async def details(self) -> str:
        return self._status[1]

    async def trailing_metadata(self) -> Any:
        return self._status[2]


@pytest.mark.parametrize("order", [(SERVERS,), (SERVERS, ITS_OWN), (ITS_OWN, SERVERS)])
def test_status_of_the_server_counts_and_the_end_is_noted_once(order: tuple[tuple[Any, ...], ...]) -> None:
    ends: list[None] = []

    async def run() -> None:
        call = FakeCall()
        ending = Ending(call, lambda: ends.append(None))
        call.end(order[0])
        seen = grpc.aio.AioRpcError(ITS_OWN[0], grpc.aio.Metadata(), grpc.aio.Metadata(), ITS_OWN[1])
        asked = asyncio.create_task(ending.error(seen))
        await asyncio.sleep(0)
        for status in order[1:]:
            call.end(status)
        error = await asked
        assert (error.code(), error.details()) == SERVERS[:2]
        assert await ending.error_code() == "NO_TOKEN"

    asyncio.run(run())
    assert len(ends) == 1


def test_upload_without_a_token_is_refused_as_such_however_many_there_are() -> None:
    def status_of(running: RunningGateway) -> int:
        return running.post((SAMPLES / "demo.wav").read_bytes(), model="whisper-1").status_code

    with gateway(auth_token_hashes=("0" * 64,)) as running, ThreadPoolExecutor(4) as pool:
        assert set(pool.map(status_of, [running] * 60)) == {401}
