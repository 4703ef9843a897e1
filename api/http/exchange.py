"""One transcription for one client: audio goes up while updates come down, and both end together."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from api.http.upstream import Call, TranscriptionUpdate


async def exchange(
    call: Call, pieces: AsyncIterator[bytes], watch: Callable[[], Awaitable[None]], *, watch_at_once: bool = False
) -> AsyncGenerator[TranscriptionUpdate, None]:
    """Send `pieces` and yield the updates, while `watch` looks after the client and raises once it leaves.

    A client whose leaving can only be seen by reading what it sends is watched when all of it has been read, else
    `watch_at_once`.

    Raises:
        ApiError: from `pieces` or `watch`, or because the call ended badly.
        ClientGoneError: the client left.
    """
    is_sent = asyncio.Event()
    if watch_at_once:
        is_sent.set()
    tasks = [
        asyncio.create_task(_or_cancel(call, _upload(call, pieces, is_sent))),
        asyncio.create_task(_or_cancel(call, _watch(watch, is_sent))),
    ]
    try:
        async for update in call.updates():
            yield update
    except asyncio.CancelledError:
        for task in tasks:
            if task.done() and not task.cancelled() and (cause := task.exception()):
                raise cause from None
        raise
    finally:
        call.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _upload(call: Call, pieces: AsyncIterator[bytes], is_sent: asyncio.Event) -> None:
    async for piece in pieces:
        await call.send(piece)
    await call.finish()
    is_sent.set()


async def _watch(watch: Callable[[], Awaitable[None]], may_begin: asyncio.Event) -> None:
    await may_begin.wait()
    await watch()


async def _or_cancel(call: Call, work: Coroutine[Any, Any, None]) -> None:
    """Does `work`; where it fails, the call ends, and with it whatever waits for it."""
    try:
        await work
    except BaseException:
        call.cancel()
        raise
