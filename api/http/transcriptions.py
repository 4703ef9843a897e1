"""POST /v1/audio/transcriptions: the form goes to the service as it comes, the answer back in OpenAI's formats."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

from fastapi import Request, Response

from api.grpc.client.formats import SUBTITLES
from api.http import form
from api.http.answers import answer
from api.http.body import Body
from api.http.context import Gateway, metadata_of
from api.http.errors import CLIENT_GONE, ApiError, ClientGoneError, invalid
from api.http.event_stream import EventStream
from api.http.exchange import exchange
from api.http.options import CALL_FIELDS, Fields, Options, describe
from api.http.responses import ErrorResponse
from api.http.upstream import TranscriptionUpdate

HELD_BYTES = 1024 * 1024  # of a file that comes before the fields, so that short ones may come in any order


@dataclass
class _Upload:
    """A form whose file has begun."""

    events: AsyncIterator[form.Event]
    fields: Fields
    file: form.FileBegin
    held: list[bytes] = field(default_factory=list)
    asked: Options = field(default_factory=Options)  # what the call began with
    asks_words: bool = False
    options: Options = field(default_factory=Options)  # with the fields that came after the file
    complete: asyncio.Event = field(default_factory=asyncio.Event)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The file's bytes.

        Raises:
            ApiError: 400 where a field that came after them asks for another call than the one under way.
        """
        for data in self.held:
            yield data
        self.held.clear()
        async for event in self.events:
            if isinstance(event, form.FileData):
                yield event.data
            elif isinstance(event, form.Field):
                self.fields.add(event.name, event.value)
        self.options = self.fields.read()
        late = [name for name in CALL_FIELDS if getattr(self.options, name) != getattr(self.asked, name)]
        if self.options.wants_words and not self.asks_words:
            late.append("timestamp_granularities[]")
        if late:
            raise invalid(
                "FIELD_AFTER_FILE",
                f"Поле {late[0]} пришло после файла: отправьте его перед файлом или в адресе (?{late[0]}=…)",
                late[0],
            )
        self.complete.set()


async def create_transcription(request: Request) -> Response:
    """Answers one form."""
    gateway: Gateway = request.app.state.gateway
    body = Body(
        request.receive,
        request.headers.get("content-length", ""),
        gateway.limits.max_upload_bytes + form.FORM_OVERHEAD_BYTES,
        gateway.limits.idle_timeout_s,
        gateway.metrics.received,
    )
    try:
        boundary = form.boundary_of(request.headers.get("content-type", ""))
        return await _transcribe(gateway, request, body, boundary)
    except ApiError as error:
        return ErrorResponse(error, body)
    except ClientGoneError:
        return Response(status_code=CLIENT_GONE)


async def _transcribe(gateway: Gateway, request: Request, body: Body, boundary: bytes) -> Response:
    upload = await _begin(form.events(body, boundary), Fields.of(request.query_params.multi_items()))
    first = describe(upload.asked, upload.file.filename, upload.file.content_type, upload.asks_words)
    call = gateway.upstream.transcribe(first, metadata_of(request), in_parts=upload.asked.stream)
    updates = exchange(call, upload.pieces(), body.watch)
    if upload.asked.stream:
        return await EventStream.begin(updates, upload.complete)
    async with aclosing(updates):
        response = (await anext(updates)).response
    if upload.options.stream:
        return await EventStream.begin(_one(TranscriptionUpdate(response=response)), upload.complete)
    text = answer(response, upload.options)
    return Response(text.text, media_type=text.media_type)


async def _begin(events: AsyncIterator[form.Event], fields: Fields) -> _Upload:
    """Reads the form up to its file, and what must be known before the call begins.

    Fields that come first decide. Where the file comes first, its beginning is held back until the form ends or
    HELD_BYTES have come, and words are asked for in case that a later field wants them.
    """
    has_fields = False
    upload: _Upload | None = None
    held_bytes = 0
    async for event in events:
        if isinstance(event, form.Field):
            has_fields = has_fields or upload is None
            fields.add(event.name, event.value)
        elif isinstance(event, form.FileBegin):
            upload = _Upload(events, fields, event, asks_words=not has_fields)
        elif upload:
            upload.held.append(event.data)
            held_bytes += len(event.data)
        if upload and (has_fields or held_bytes > HELD_BYTES):
            break
    if upload is None:
        raise invalid("MISSING_FILE", "В форме нет файла: передайте его в поле file", form.FILE_FIELD)
    upload.asked = upload.options = fields.read()
    is_subtitled = upload.asked.response_format in SUBTITLES  # which begin and end at words
    upload.asks_words = upload.asks_words or upload.asked.wants_words or is_subtitled
    return upload


async def _one(update: TranscriptionUpdate) -> AsyncIterator[TranscriptionUpdate]:
    yield update
