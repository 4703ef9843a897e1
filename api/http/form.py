"""Parses multipart/form-data while it arrives: fields as values, the file as pieces that are never put together."""

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.http.errors import ApiError, invalid

FILE_FIELD = "file"
MAX_FIELDS = 100
MAX_HEADER_BYTES = 16 * 1024  # file names may be long
MAX_FIELDS_BYTES = 64 * 1024  # of all fields but the file
FORM_OVERHEAD_BYTES = 1024 * 1024  # what a form may hold beside its file: fields, headers, boundaries


@dataclass(frozen=True)
class Field:
    """A value of the form."""

    name: str
    value: str


@dataclass(frozen=True)
class FileBegin:
    """The file's bytes follow."""

    filename: str
    content_type: str


@dataclass(frozen=True)
class FileData:
    """A piece of the file."""

    data: bytes


Event = Field | FileBegin | FileData


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type names.

    Raises:
        ApiError: 400 where the body is no form of this kind.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise invalid("INVALID_FORM", "Нужна форма multipart/form-data с файлом в поле file")
    return options[b"boundary"]


async def events(body: AsyncIterable[bytes], boundary: bytes) -> AsyncIterator[Event]:
    """What the form says, in its order.

    Raises:
        ApiError: 400 where it is malformed, is cut short, or has more fields than allowed.
    """
    form = _Form(boundary)
    async for piece in body:
        for event in form.feed(piece):
            yield event
    form.check_end()


class _Form:
    """Collects what the parser calls back with."""

    def __init__(self, boundary: bytes) -> None:
        self._events: list[Event] = []
        self._header_name = self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._name: str | None = None
        self._value = bytearray()
        self._fields = 0
        self._fields_bytes = 0
        self._has_file = False
        self._has_ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begin,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_part,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._part_data,
                    "on_part_end": self._part_end,
                    "on_end": self._end,
                },
                max_header_size=MAX_HEADER_BYTES,
            )
        except FormParserError as error:
            raise _malformed() from error

    def feed(self, piece: bytes) -> list[Event]:
        """The events of the next bytes."""
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise _malformed() from error
        found, self._events = self._events, []
        return found

    def check_end(self) -> None:
        """Raises ApiError where the last boundary has not come."""
        if not self._has_ended:
            raise _malformed()

    def _part_begin(self) -> None:
        self._headers = {}
        self._header_name = self._header_value = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_part(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._name = _text(options.get(b"name", b""))
        self._value.clear()
        if self._name != FILE_FIELD:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise invalid("INVALID_FORM", f"Полей в форме больше {MAX_FIELDS}")
            return
        if self._has_file:
            raise invalid("INVALID_FORM", "Файл в форме должен быть один", FILE_FIELD)
        self._has_file = True
        content_type, _ = parse_options_header(self._headers.get(b"content-type"))
        self._events.append(FileBegin(_text(options.get(b"filename", b"")), _text(content_type)))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == FILE_FIELD:
            self._events.append(FileData(data[start:end]))
            return
        self._fields_bytes += end - start
        if self._fields_bytes > MAX_FIELDS_BYTES:
            raise invalid("INVALID_FORM", f"Поля формы длиннее {MAX_FIELDS_BYTES} байт", self._name)
        self._value += data[start:end]

    def _part_end(self) -> None:
        if self._name is not None and self._name != FILE_FIELD:
            self._events.append(Field(self._name, _text(bytes(self._value))))

    def _end(self) -> None:
        self._has_ended = True


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _malformed() -> ApiError:
    return invalid("INVALID_FORM", "Форма испорчена или оборвана: отправьте файл ещё раз")
