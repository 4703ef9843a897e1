"""Any description of a request is accepted or rejected, and is never used as a path."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.audio.splitter import Chunk
from ml.errors import AudioError
from ml.interfaces import RecognitionOptions
from ml.pipeline.pipeline import Pipeline
from ml.transcript import Completion
from services.transcription.admission import Admission
from services.transcription.errors import RequestError
from services.transcription.request import MAX_LOGGED_NAME, SUPPORTED_FORMATS, AudioInfo, Call
from services.transcription.transcriber import Transcriber
from tests.fuzz.mutations import SEEDS, damaged, seed
from tests.support import audio as media

nothing_left_behind = pytest.fixture(autouse=True)(media.nothing_left_behind)

WORDS = settings(settings.get_profile("fuzz"), max_examples=300)
QUICK = settings(settings.get_profile("fuzz"), max_examples=30)
LONG = settings(settings.get_profile("fuzz"), max_examples=1000, derandomize=False)
PIECE_SIZES = (1, 7, 100, 4096, 65_536)

_hostile = (
    "../../etc/passwd",
    "-i",
    "http://127.0.0.1/a.wav",
    "a\0.wav",
    "C:\\a.mp3",
    ".wav",
    ".",
    "..",
    "/",
    "a.wav/",
)
endings = st.sampled_from((*SUPPORTED_FORMATS, "WAV", "exe", "wav ", "wav\n"))
names = st.text(max_size=60) | st.sampled_from(_hostile) | st.builds("{}.{}".format, st.text(), endings)
formats = st.text(max_size=20) | st.sampled_from((*SUPPORTED_FORMATS, "pcm", " PCM ", "MP3", "wav\0"))
rates = st.integers(-(2**31), 2**31 - 1) | st.sampled_from((0, 1000, 8000, 16_000, 384_000))
descriptions = st.builds(AudioInfo, names, formats, rates)


def recognise(chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions) -> Iterator[Completion]:
    for number, _ in enumerate(chunks, start=1):
        yield Completion(str(number))


DECODER = AudioDecoder(find_ffmpeg(), max_duration_s=30, timeout_s=20)


@WORDS
@given(descriptions)
@example(AudioInfo("a.wav" + "x" * 10_000, "wav", 0))
@example(AudioInfo("\ud800.wav", "", 0))
def test_a_description_is_accepted_or_rejected_and_shown_on_one_short_line(description: AudioInfo) -> None:
    try:
        description.check()
        event("accepted")
    except RequestError as error:
        event(error.code)
        assert str(error).isprintable()
    for shown in (description.printable_filename, description.format_name):
        assert len(shown) <= MAX_LOGGED_NAME and (shown == "" or shown.isprintable())


def transcribe(description: AudioInfo, audio_bytes: bytes, piece_bytes: int) -> None:
    """Send a recording through the service below the wire, at once and as a stream; check the results."""
    logged: list[str] = []
    transcriber = Transcriber(
        Pipeline(DECODER, 10, recognise),
        Admission(10**6, 10, lambda: 0.0),
        10**6,
        lambda described, size: logged.append(described.printable_filename),
    )
    pieces = [audio_bytes[start : start + piece_bytes] for start in range(0, len(audio_bytes), piece_bytes)]
    outcomes = []
    for send in (transcriber.transcribe_file, transcriber.transcribe_stream):
        try:
            outcomes.append(f"{send(Call(description), pieces).audio_duration_s:.1f} s")
        except AudioError as error:
            outcomes.append(error.code)
    event(outcomes[0] if outcomes[0][0].isalpha() else "sound")
    assert not logged or logged[0] == description.printable_filename
    assert transcriber.admission.bytes_held == 0


@QUICK
@given(descriptions, st.sampled_from(SEEDS).map(seed) | damaged(), st.sampled_from(PIECE_SIZES[2:]))
def test_any_request_ends_in_a_transcript_or_in_an_audio_error(
    description: AudioInfo, audio_bytes: bytes, piece_bytes: int
) -> None:
    transcribe(description, audio_bytes, piece_bytes)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@LONG
@given(descriptions, damaged(), st.sampled_from(PIECE_SIZES))
def test_many_more_requests_end_in_a_transcript_or_in_an_audio_error(
    description: AudioInfo, audio_bytes: bytes, piece_bytes: int
) -> None:
    transcribe(description, audio_bytes, piece_bytes)
