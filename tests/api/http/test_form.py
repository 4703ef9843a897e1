"""The parser of forms: whatever the pieces, the same events; what is no form is refused."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.http import form as forms
from api.http.errors import ApiError
from tests.support.http_gateway import form


def parse(*pieces: bytes, boundary: bytes = b"edge") -> list[forms.Event]:
    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def collect() -> list[forms.Event]:
        return [event async for event in forms.events(body(), boundary)]

    return asyncio.run(collect())


def joined(events: list[forms.Event]) -> tuple[list[tuple[str, str]], list[str], bytes]:
    """Fields, file names and the file's bytes."""
    return (
        [(event.name, event.value) for event in events if isinstance(event, forms.Field)],
        [event.filename for event in events if isinstance(event, forms.FileBegin)],
        b"".join(event.data for event in events if isinstance(event, forms.FileData)),
    )


@given(st.binary(max_size=400), st.integers(1, 60))
def test_file_comes_out_as_it_went_in_however_the_form_is_cut(audio_bytes: bytes, piece_bytes: int) -> None:
    body, _ = form(("model", "м"), ("file", audio_bytes), ("prompt", "после"))
    pieces = [body[start : start + piece_bytes] for start in range(0, len(body), piece_bytes)]
    assert joined(parse(*pieces)) == ([("model", "м"), ("prompt", "после")], ["a.wav"], audio_bytes)


@given(st.lists(st.sampled_from([b"\r\n", b"--edge", b"\r\n--edg", b"-", b"\r", b"\n", b"x"]), max_size=30))
def test_file_that_looks_like_boundaries_is_either_whole_or_refused(parts: list[bytes]) -> None:
    audio_bytes = b"".join(parts)
    body, _ = form(("file", audio_bytes))
    try:
        _, _, received = joined(parse(body))
    except ApiError as error:
        assert error.status == 400 and b"\r\n--edge" in b"\r\n" + audio_bytes
        return
    assert received == audio_bytes or b"\r\n--edge" in b"\r\n" + audio_bytes


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form at all",
        form(("file", b"x"))[0][:-8],
        form(("file", b"x"), ("file", b"y"))[0],
        form(*[(f"f{number}", "") for number in range(forms.MAX_FIELDS + 1)])[0],
        form(("prompt", "x" * (forms.MAX_FIELDS_BYTES + 1)))[0],
        b"--edge\r\n" + b"X-Header: " + b"x" * (forms.MAX_HEADER_BYTES + 1) + b"\r\n\r\n",
        b"--edge\r\n" + b"X: y\r\n" * 100 + b"\r\n",
    ],
    ids=["empty", "junk", "cut short", "two files", "many fields", "long field", "long header", "many headers"],
)
def test_what_is_no_form_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        parse(body)
    assert refused.value.status == 400 and refused.value.code == "INVALID_FORM"


@pytest.mark.parametrize("content_type", ["", "application/json", "multipart/form-data", "multipart/mixed; boundary=x"])
def test_content_type_that_is_no_form_is_refused(content_type: str) -> None:
    with pytest.raises(ApiError, match="multipart/form-data"):
        forms.boundary_of(content_type)


def test_boundary_longer_than_allowed_is_refused() -> None:
    with pytest.raises(ApiError):
        parse(b"x", boundary=b"b" * 300)


def test_quoted_boundary_and_names_of_other_alphabets_are_read() -> None:
    assert forms.boundary_of('multipart/form-data; boundary="a b"') == b"a b"
    body, _ = form(("file", b"x"), filename="запись №1.mp3")
    assert joined(parse(body))[1] == ["запись №1.mp3"]
