"""Server-sent events of a transcription: text as it is recognised, in OpenAI's events."""

import asyncio
from collections.abc import AsyncIterator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.http.answers import delta_writer, dump
from api.http.errors import ApiError, ClientGoneError
from api.http.upstream import TranscriptionUpdate

PING_S = 15.0  # a comment that keeps proxies from taking a long wait for a dead connection

_Item = TranscriptionUpdate | Exception | None
_Filler = asyncio.Task[Exception | None]


class EventStream(Response):
    """A response whose events come from updates; it begins once the upload is complete.

    A client that still sends does not read, so what is recognised meanwhile is kept: text is small beside sound.
    """

    media_type = "text/event-stream"

    def __init__(self, items: "asyncio.Queue[_Item]", first: TranscriptionUpdate, filler: "_Filler") -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._items = items
        self._first = first
        self._filler = filler

    @classmethod
    async def begin(cls, updates: AsyncIterator[TranscriptionUpdate], uploaded: asyncio.Event) -> "EventStream":
        """Wait for the end of the upload and the first update.

        Raises:
            ApiError, ClientGoneError: there is none; the answer is an ordinary one then.
        """
        items: asyncio.Queue[_Item] = asyncio.Queue()
        filler = asyncio.create_task(_fill(items, updates))
        complete = asyncio.create_task(uploaded.wait())
        try:
            await asyncio.wait((filler, complete), return_when=asyncio.FIRST_COMPLETED)
            if filler.done() and (error := filler.result()):
                raise error
            first = await items.get()
            if isinstance(first, TranscriptionUpdate):
                return cls(items, first, filler)
            raise first or ApiError(500, "INCOMPLETE_ANSWER")
        except asyncio.CancelledError:
            filler.cancel()
            raise
        finally:
            complete.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See starlette's Response."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for event in self._events():
                await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except ClientGoneError:
            pass
        finally:
            self._filler.cancel()
            await asyncio.gather(self._filler, return_exceptions=True)

    async def _events(self) -> AsyncIterator[str]:
        delta_of = delta_writer()
        has_deltas = False
        item: _Item = self._first
        while item is not None:
            if isinstance(item, ApiError):
                yield _event(item.body)
                return
            if isinstance(item, Exception):
                raise item
            elif item.HasField("segment"):
                if delta := delta_of(item.segment):
                    has_deltas = True
                    yield _event({"type": "transcript.text.delta", "delta": delta})
            elif item.HasField("response"):
                text = item.response.transcript
                if text and not has_deltas:
                    yield _event({"type": "transcript.text.delta", "delta": text})
                yield _event({"type": "transcript.text.done", "text": text})
            while (item := await self._next()) is _PING:
                yield ": ping\n\n"

    async def _next(self) -> _Item:
        try:
            async with asyncio.timeout(PING_S):
                return await self._items.get()
        except TimeoutError:
            return _PING


_PING = TranscriptionUpdate()  # in place of an update that has not come yet


async def _fill(items: "asyncio.Queue[_Item]", updates: AsyncIterator[TranscriptionUpdate]) -> Exception | None:
    """Moves the updates to `items`; returns what ended them, if that was an error."""
    try:
        async for update in updates:
            items.put_nowait(update)
    except Exception as error:
        items.put_nowait(error)
        return error
    items.put_nowait(None)
    return None


def _event(data: object) -> str:
    return f"data: {dump(data)}\n\n"
