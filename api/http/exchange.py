"""One transcription for one client: audio goes up while updates come down, and both end together."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from api.http.errors import ClientGoneError
from api.http.upstream import Call, TranscriptionUpdate


async def exchange(
    call: Call, pieces: AsyncIterator[bytes], gone: Callable[[], Awaitable[None]]
) -> AsyncGenerator[TranscriptionUpdate, None]:
    """Send `pieces` and yield the updates; once all is sent, wait for `gone` as well, which cancels the call.

    Raises:
        ApiError: from `pieces`, or because the call ended badly.
        ClientGoneError: the client left.
    """
    upload = asyncio.create_task(_upload(call, pieces, gone))
    updates = call.updates()
    try:
        async for update in updates:
            yield update
    except asyncio.CancelledError:
        if upload.done() and not upload.cancelled() and (cause := upload.exception()):
            raise cause from None
        raise
    finally:
        upload.cancel()
        call.cancel()
        await asyncio.gather(upload, return_exceptions=True)


async def _upload(call: Call, pieces: AsyncIterator[bytes], gone: Callable[[], Awaitable[None]]) -> None:
    """Never returns: the client leaves, something fails, or the task is cancelled because the answer is there."""
    try:
        async for piece in pieces:
            await call.send(piece)
        await call.finish()
        await gone()
        raise ClientGoneError
    except BaseException:
        call.cancel()
        raise
