"""OpenAI's own Python package against the gateway, unchanged, with the bundled model behind it."""

import asyncio
from collections.abc import Iterator

import openai
import pytest

from services.transcription.implementations import BorealisTranscriptionService
from tests.conftest import sample
from tests.support.http_gateway import RunningGateway, gateway
from tests.support.speech import TINY_MODEL
from tests.support.waiting import HANG_LIMIT_S

MODEL = "whisper-1"  # any name is taken


@pytest.fixture(scope="module")
def running() -> Iterator[RunningGateway]:
    with gateway(BorealisTranscriptionService(), model_name=str(TINY_MODEL), model_batch_size=4) as both:
        yield both


@pytest.fixture
def client(running: RunningGateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="unused", max_retries=0, timeout=HANG_LIMIT_S) as client:
        yield client


@pytest.fixture(scope="module")
def spoken() -> str:
    return sample("demo.txt").read_text(encoding="utf-8").strip()


def test_json_is_the_text(client: openai.OpenAI, spoken: str) -> None:
    with sample("demo.wav").open("rb") as file:
        transcription = client.audio.transcriptions.create(model=MODEL, file=file)
    assert transcription.text == spoken
    assert transcription.usage and transcription.usage.type == "duration"
    assert transcription.usage.seconds == pytest.approx(10.8, abs=0.1)
    assert transcription._request_id


def test_bytes_with_a_name_and_all_parameters_are_taken(client: openai.OpenAI, spoken: str) -> None:
    transcription = client.audio.transcriptions.create(
        model=MODEL,
        file=("demo.mp3", sample("demo.mp3").read_bytes(), "audio/mpeg"),
        language="ru",
        prompt="Казань",
        temperature=0,
        response_format="json",
    )
    assert transcription.text == spoken


@pytest.mark.parametrize(("response_format", "beginning"), [("srt", "1\n00:00:00,"), ("vtt", "WEBVTT\n\n00:")])
def test_subtitles_are_text(client: openai.OpenAI, response_format: str, beginning: str) -> None:
    subtitles = client.audio.transcriptions.create(
        model=MODEL,
        file=sample("demo.wav"),
        response_format=response_format,  # type: ignore[call-overload]
    )
    assert subtitles.startswith(beginning) and "-->" in subtitles


def test_text_is_text(client: openai.OpenAI, spoken: str) -> None:
    text = client.audio.transcriptions.create(model=MODEL, file=sample("demo.wav"), response_format="text")
    assert text == spoken + "\n"


def test_verbose_json_has_segments_and_words(client: openai.OpenAI, spoken: str) -> None:
    transcription = client.audio.transcriptions.create(
        model=MODEL,
        file=sample("demo.wav"),
        response_format="verbose_json",
        timestamp_granularities=["segment", "word"],
    )
    assert transcription.text == spoken and transcription.duration == pytest.approx(10.8, abs=0.1)
    assert transcription.segments and transcription.words is not None
    segment = transcription.segments[0]
    assert (segment.id, segment.seek, segment.tokens, segment.temperature) == (0, 0, [], 0)
    assert segment.start == 0 and segment.text and segment.no_speech_prob == 0 and segment.compression_ratio > 1


def test_stream_gives_deltas_and_the_whole(client: openai.OpenAI) -> None:
    events = list(client.audio.transcriptions.create(model=MODEL, file=sample("recording-3min.mp3"), stream=True))
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert len(deltas) > 3 and events[-1].type == "transcript.text.done"
    assert "".join(deltas) == events[-1].text


def test_asynchronous_client_works_too(running: RunningGateway, spoken: str) -> None:
    async def transcribe_twice() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="unused", timeout=HANG_LIMIT_S) as client:
            create = client.audio.transcriptions.create
            both = await asyncio.gather(*(create(model=MODEL, file=sample("demo.wav")) for _ in range(2)))
            return [transcription.text for transcription in both]

    assert asyncio.run(transcribe_twice()) == [spoken, spoken]


def test_models_name_the_one_that_answers(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [TINY_MODEL.name]


def test_refused_content_is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.audio.transcriptions.create(model=MODEL, file=("a.wav", b"no sound"))
    assert refused.value.code == "UNDECODABLE_AUDIO" and refused.value.param == "file"
    with pytest.raises(openai.BadRequestError):
        client.audio.transcriptions.create(model=MODEL, file=("a.wav", b"no sound"), stream=True)


def test_missing_token_is_an_authentication_error() -> None:
    with (
        gateway(auth_token_hashes=("0" * 64,)) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="wrong", max_retries=0) as client,
    ):
        with pytest.raises(openai.AuthenticationError) as refused:
            client.audio.transcriptions.create(model=MODEL, file=sample("demo.wav"))
        assert refused.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_service_that_is_away_is_an_internal_server_error_to_be_retried() -> None:
    with gateway() as running:
        running.grpc.stop()
        with (
            openai.OpenAI(base_url=f"{running.url}/v1", api_key="x", max_retries=0) as client,
            pytest.raises(openai.InternalServerError) as refused,
        ):
            client.audio.transcriptions.create(model=MODEL, file=sample("demo.wav"))
        assert refused.value.status_code == 503 and int(refused.value.response.headers["retry-after"]) > 0
