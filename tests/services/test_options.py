"""Options of a request: unknown values are content errors, the rest reaches the model or is named in a warning."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from generated.v1 import transcription_pb2
from ml.audio.splitter import Chunk
from ml.interfaces import Capabilities, RecognitionOptions
from ml.transcript import Completion, Word
from tests.conftest import Serve
from tests.support.audio import voice_wav
from tests.support.fault_services import NumberingService
from tests.support.messages import transcribe_every_way, transcribe_file

Options = transcription_pb2.TranscriptionOptions


class CapableService(NumberingService):
    """Its model knows English, takes a prompt, and gives word times and confidence."""

    capabilities = Capabilities(frozenset({"ru", "en"}), detects_language=True, takes_prompt=True)

    def __init__(self) -> None:
        super().__init__()
        self.options: list[RecognitionOptions] = []

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        for _ in chunks:
            self.options.append(options)
            words = (Word("Раз", 0.1, 0.4, 0.9), Word("два.", 0.5, 0.9, 0.7))
            yield Completion("Раз два.", confidence=0.8, words=words if options.word_times else ())


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (Options(channel_mode=7), "channel_mode"),
        (Options(language="russian"), "language"),
        (Options(language="р1"), "language"),
        (Options(prompt="а" * 1001), "prompt"),
    ],
    ids=["channel mode", "long language", "strange language", "long prompt"],
)
def test_unknown_value_is_a_content_error_that_names_the_option(serve: Serve, options: Options, name: str) -> None:
    for response, trailers in transcribe_every_way(
        serve(CapableService()), voice_wav(1), filename="a.wav", options=options
    ):
        assert not response.success and name in response.error_message
        assert trailers["x-error-code"] == "INVALID_OPTIONS"


def test_what_the_model_cannot_do_is_named_in_warnings(serve: Serve) -> None:
    stub = serve(NumberingService())
    for response, _ in transcribe_every_way(
        stub, voice_wav(1), filename="a.wav", options=Options(language="en", prompt="Бореалис")
    ):
        assert response.success and response.transcript
        about_language, about_prompt = response.warnings
        assert " en" in about_language and "prompt" in about_prompt
    response, _ = transcribe_file(stub, voice_wav(1), filename="a.wav", options=Options(language="auto"))
    assert len(response.warnings) == 1 and "auto" in response.warnings[0]


@pytest.mark.parametrize("options", [Options(), Options(language=" RU ")])
def test_defaults_and_the_language_of_the_model_give_no_warning(serve: Serve, options: Options) -> None:
    for response, _ in transcribe_every_way(serve(NumberingService()), voice_wav(1), filename="a.wav", options=options):
        assert response.success and not response.warnings
        assert not response.segments[0].words and not response.segments[0].HasField("confidence")


def test_options_reach_a_model_that_can_follow_them(serve: Serve) -> None:
    service = CapableService()
    options = Options(language="auto", prompt="Бореалис", word_times=True)
    for response, _ in transcribe_every_way(serve(service), voice_wav(1), filename="a.wav", options=options):
        assert response.success and not response.warnings
    wanted = RecognitionOptions(language="auto", prompt="Бореалис", word_times=True)
    assert service.options == [wanted, replace(wanted, incremental=True), wanted]  # streamed, incremental, unary


def test_words_have_the_times_of_the_model_counted_from_the_beginning_of_the_audio(serve: Serve) -> None:
    stub = serve(CapableService(), model_chunk_duration=3)
    for response, _ in transcribe_every_way(stub, voice_wav(8), filename="a.wav", options=Options(word_times=True)):
        assert len(response.segments) > 1
        for segment in response.segments:
            first, second = segment.words
            assert (first.text, second.text) == tuple(segment.text.split())
            assert first.start_s == pytest.approx(segment.start_s + 0.1)
            assert second.end_s == pytest.approx(segment.start_s + 0.9)
            assert (first.confidence, second.confidence, segment.confidence) == pytest.approx((0.9, 0.7, 0.8))
            assert not first.is_estimated


def test_model_without_word_times_gets_estimated_ones(serve: Serve) -> None:
    stub = serve(NumberingService(), model_chunk_duration=3)
    for response, _ in transcribe_every_way(stub, voice_wav(8), filename="a.wav", options=Options(word_times=True)):
        assert not response.warnings
        for segment in response.segments:
            assert [word.text for word in segment.words] == segment.text.split()
            assert all(word.is_estimated and not word.HasField("confidence") for word in segment.words)
            times = [time for word in segment.words for time in (word.start_s, word.end_s)]
            assert segment.start_s <= times[0] and times[-1] <= segment.end_s and np.all(np.diff(times) > -1e-9)
