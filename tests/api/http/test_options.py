"""What a request says of itself: fields, their names in OpenAI's API, and what is refused."""

import pytest

from api.http.errors import ApiError
from api.http.options import Fields, Options, describe
from generated.v1.transcription_pb2 import ChannelMode


def read(*pairs: tuple[str, str]) -> Options:
    return Fields.of(pairs).read()


def test_without_fields_the_answer_is_json_of_the_mixed_channels() -> None:
    assert read() == Options(response_format="json", channel_mode="mix", stream=False)


def test_fields_of_openai_that_have_no_meaning_here_are_taken() -> None:
    assert read(("model", "whisper-1"), ("temperature", "0.2"), ("include[]", "logprobs")) == Options()


@pytest.mark.parametrize("name", ["timestamp_granularities[]", "timestamp_granularities"])
def test_granularities_add_up(name: str) -> None:
    options = read(("response_format", "verbose_json"), (name, "word"), (name, "segment"))
    assert options.wants_words and options.wants_segments


def test_only_words_leave_the_segments_out() -> None:
    options = read(("response_format", "verbose_json"), ("timestamp_granularities[]", "word"))
    assert options.wants_words and not options.wants_segments


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "mp3"}, "response_format"),
        ({"stream": "maybe"}, "stream"),
        ({"stream": "true", "response_format": "srt"}, "response_format"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities[]"),
        ({"response_format": "verbose_json", "timestamp_granularities[]": "letter"}, "timestamp_granularities[]"),
        ({"channel_mode": "left"}, "channel_mode"),
        ({"sample_rate": "-1"}, "sample_rate"),
        ({"sample_rate": "9" * 5000}, "sample_rate"),
    ],
)
def test_value_that_is_not_allowed_names_its_field(fields: dict[str, str], param: str) -> None:
    with pytest.raises(ApiError, match=r"допустимо|требует") as refused:
        read(*fields.items())
    assert (refused.value.status, refused.value.param) == (400, param)


@pytest.mark.parametrize(
    ("filename", "content_type", "sent"),
    [
        ("a.wav", "audio/mpeg", ("a.wav", "")),
        ("a.MP4", "", ("a.MP4", "")),
        ("a.mpeg", "audio/ogg", ("a.mpeg", "mp3")),
        ("blob", "audio/webm;codecs=opus", ("blob", "audio/webm;codecs=opus")),
        ("", "audio/mpeg", ("file", "audio/mpeg")),
        ("blob", "application/octet-stream", ("blob", "")),
        ("a.exe", "audio/wav", ("a.exe", "")),
    ],
)
def test_format_comes_from_the_name_or_else_from_the_type(
    filename: str, content_type: str, sent: tuple[str, str]
) -> None:
    first = describe(Options(), filename, content_type, word_times=False)
    assert (first.filename, first.format) == sent


def test_options_reach_the_call() -> None:
    options = read(("language", "ru"), ("prompt", " Казань "), ("channel_mode", "separate"))
    sent = describe(options, "a.wav", "", word_times=True).options
    assert (sent.language, sent.prompt, sent.word_times) == ("ru", "Казань", True)
    assert sent.channel_mode == ChannelMode.SEPARATE
