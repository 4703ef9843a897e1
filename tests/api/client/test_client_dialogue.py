"""A call with a speaker on each channel reads as a dialogue: channels and word times reach the outputs."""

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from api.grpc.client import SEPARATE, TranscriptionClient, TranscriptionOptions
from api.grpc.client.cli import main
from ml.audio.splitter import Chunk
from ml.interfaces import SAMPLE_RATE, Capabilities, RecognitionOptions
from ml.transcript import Completion, Word
from tests.support.audio import pcm, voice, wav_header
from tests.support.client_server import ChecksumService, expected_text, listening, write_wav

Printed = pytest.CaptureFixture[str]

PHRASE_S = 2.0
DIALOGUE = (  # start_s, channel, text; no two phrases overlap, so that the time of a sound says which of them it is
    (0.5, 1, "Алло, добрый день."),
    (3.5, 2, "Здравствуйте, это Борис."),
    (6.5, 1, "Слушаю вас, Борис."),
    (9.5, 2, "Хочу заказать такси."),
)
DURATION_S = 12.0
FRAME_SAMPLES = SAMPLE_RATE // 10


class Listener(ChecksumService):
    """Recognises the phrases of DIALOGUE that sound in a chunk, each word with its time and confidence."""

    capabilities = Capabilities(frozenset({"ru", "en"}), takes_prompt=True)

    def __init__(self) -> None:
        super().__init__()
        self.options: list[RecognitionOptions] = []

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        self.options.append(options)
        for chunk in chunks:
            words = [word for start_s, _, text in DIALOGUE if sounds(chunk, start_s) for word in spoken(start_s, text)]
            shifted = [
                Word(word.text, word.start_s - chunk.start_s, word.end_s - chunk.start_s, 0.875) for word in words
            ]
            text = " ".join(word.text for word in words)
            yield Completion(text, confidence=0.75, words=tuple(shifted) if options.word_times else ())


def sounds(chunk: Chunk, start_s: float) -> bool:
    """Whether the middle of the phrase that begins at `start_s` is in `chunk`, and is no silence."""
    middle = round((start_s + PHRASE_S / 2 - chunk.start_s) * SAMPLE_RATE)
    around = chunk.waveform[max(middle - FRAME_SAMPLES, 0) : max(middle + FRAME_SAMPLES, 0)]
    return bool(np.abs(around).max(initial=0) > 0.01)


def spoken(start_s: float, text: str) -> list[Word]:
    """The words of a phrase, which share its time."""
    words = text.split()
    length_s = PHRASE_S / len(words)
    return [Word(word, start_s + n * length_s, start_s + (n + 1) * length_s) for n, word in enumerate(words)]


@pytest.fixture
def service() -> Listener:
    return Listener()


@pytest.fixture
def call(tmp_path: Path) -> Path:
    """A stereo recording of DIALOGUE."""
    channels = np.zeros((2, round(DURATION_S * SAMPLE_RATE)), np.float32)
    for seed, (start_s, channel, _) in enumerate(DIALOGUE):
        phrase = voice(PHRASE_S, seed)
        start = round(start_s * SAMPLE_RATE)
        channels[channel - 1, start : start + len(phrase)] = phrase
    samples = pcm(channels.T.reshape(-1))
    path = tmp_path / "call.wav"
    path.write_bytes(wav_header(len(samples), channels=2, riff_bytes=len(samples) + 36) + samples)
    return path


def cues_in(srt: str) -> list[tuple[float, float, str]]:
    """Start and end in seconds, and the text on one line, of every subtitle."""
    blocks = [block.split("\n", 2) for block in srt.strip().split("\n\n")]
    return [(*map(seconds, timing.split(" --> ")), " ".join(text.split())) for _, timing, text in blocks]  # type: ignore[misc]


def seconds(clock: str) -> float:
    hours, minutes, rest = clock.replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


@pytest.mark.parametrize("way", [[], ["--stream"]])
@pytest.mark.parametrize("words", [[], ["--words"]])
def test_call_of_two_channels_reads_as_a_dialogue_from_its_subtitles(
    address: str, call: Path, way: list[str], words: list[str], capsys: Printed
) -> None:
    assert main([str(call), "--address", address, "--format", "srt", "--channels", *words, *way]) == 0
    found = cues_in(capsys.readouterr().out)
    assert [text for _, _, text in found] == [f"Канал {channel}: {text}" for _, channel, text in DIALOGUE]
    assert [(start_s, end_s) for start_s, end_s, _ in found] == [
        (pytest.approx(start_s, abs=0.002), pytest.approx(start_s + PHRASE_S, abs=0.002)) for start_s, _, _ in DIALOGUE
    ]


@pytest.mark.parametrize("way", [[], ["--stream"]])
def test_table_and_json_carry_channels_confidence_and_words(
    address: str, call: Path, way: list[str], capsys: Printed
) -> None:
    command = [str(call), "--address", address, "--channels", "--words", *way]
    assert main([*command, "--format", "json"]) == 0
    segments = json.loads(capsys.readouterr().out)["segments"]
    assert main([*command, "--format", "tsv"]) == 0
    header, *lines = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    assert len(rows) == len(segments) and {row["channel"] for row in rows} == {"1", "2"}
    for row, segment in zip(rows, segments, strict=True):
        assert int(row["channel"]) == segment["channel"]
        if row["text"]:
            assert float(row["confidence"]) == segment["confidence"] == 0.75
            in_row = json.loads(row["words"])
            assert [word["text"] for word in in_row] == row["text"].split()
            assert [word["text"] for word in segment["words"]] == row["text"].split()
            assert {word["confidence"] for word in [*in_row, *segment["words"]]} == {0.875}
            assert not any(word["is_estimated"] for word in [*in_row, *segment["words"]])
        else:
            assert (row["confidence"], row["words"], segment["words"]) == ("", "", [])


def test_channels_are_mixed_unless_asked_for_and_words_have_times_for_subtitles_alone(
    address: str, call: Path, service: Listener, capsys: Printed
) -> None:
    assert main([str(call), "--address", address, "--format", "json"]) == 0
    segments = json.loads(capsys.readouterr().out)["segments"]
    assert {segment["channel"] for segment in segments} == {0} and not any(segment["words"] for segment in segments)
    assert set(service.options) == {RecognitionOptions()}
    assert main([str(call), "--address", address, "--format", "srt"]) == 0
    assert "Канал" not in capsys.readouterr().out
    assert service.options[-1].word_times


@pytest.mark.parametrize("way", [[], ["--stream"]])
def test_language_and_prompt_reach_the_model(
    address: str, call: Path, service: Listener, way: list[str], capsys: Printed
) -> None:
    flags = ["--language", "en", "--prompt", "Борис, такси", "--words"]
    assert main([str(call), "--address", address, *flags, *way]) == 0
    wanted = RecognitionOptions(language="en", prompt="Борис, такси", word_times=True, incremental=bool(way))
    assert set(service.options) == {wanted}
    assert "⚠️" not in capsys.readouterr().err


def test_language_that_is_none_is_rejected_with_the_code(address: str, call: Path, capsys: Printed) -> None:
    assert main([str(call), "--address", address, "--language", "russian"]) == 1
    assert re.search(r"\[INVALID_OPTIONS\].*language", capsys.readouterr().err)


def test_library_takes_the_options_of_the_contract_in_every_call(address: str, call: Path) -> None:
    options, passed_on = TranscriptionOptions(channel_mode=SEPARATE, word_times=True), []
    with TranscriptionClient(address) as client:
        unary = client.transcribe(call, options=options)
        streamed = client.transcribe_stream(call, options=options)
        incremental = client.transcribe_incremental(call, options=options, on_segment=passed_on.append)
    assert unary.segments == streamed.segments == incremental.segments
    words = [(word.text, segment.channel) for segment in unary.segments for word in segment.words]
    for channel in (1, 2):
        text = " ".join(text for _, spoken_in, text in DIALOGUE if spoken_in == channel)
        assert " ".join(word for word, found_in in words if found_in == channel) == text
    # Each channel has segments of its own: one that ends before a segment of the other channel is passed on, too.
    assert sorted(passed_on, key=lambda segment: (segment.start_s, segment.channel)) == list(unary.segments)


def test_mono_recording_is_called_channel_one_where_channels_are_asked_for(tmp_path: Path, capsys: Printed) -> None:
    recording = write_wav(tmp_path / "a.wav", seconds=3)
    with listening(ChecksumService()) as server:
        server.start()
        assert main([str(recording), "--address", f"127.0.0.1:{server.port}", "--format", "vtt", "--channels"]) == 0
    assert f"Канал 1: {expected_text(recording)}" in capsys.readouterr().out
