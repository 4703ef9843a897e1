"""Each channel of a recording is transcribed by itself, in every call; one speaker a channel reads as a dialogue."""

from itertools import pairwise
from typing import Any

import jiwer
import numpy as np
import pytest

from generated.v1 import transcription_pb2
from ml.interfaces import Waveform
from tests.conftest import Bundled, Serve
from tests.support.audio import decoded_by_pydub, pcm, voice, wav_header
from tests.support.fault_services import NumberingService
from tests.support.messages import transcribe_every_way, transcribe_file

Response = transcription_pb2.TranscriptionResponse
SEPARATE = transcription_pb2.TranscriptionOptions(channel_mode=transcription_pb2.SEPARATE)
RATE = 16_000


def multichannel_wav(channels: list[Waveform], sample_rate: int = RATE) -> bytes:
    """A WAV file with these channels (n,)."""
    samples = pcm(np.stack(channels, axis=1).reshape(-1))
    return wav_header(len(samples), sample_rate, len(channels), len(samples) + 36) + samples


def segments_by_channel(response: Response) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for segment in response.segments:
        found.setdefault(segment.channel, []).append(segment)
    return found


def test_channels_are_covered_and_numbered_from_one_in_every_call(serve: Serve) -> None:
    silent = np.zeros(12 * RATE, np.float32)
    data = multichannel_wav([np.append(voice(6), silent), np.append(silent, voice(6, seed=1))])
    stub = serve(NumberingService(), model_chunk_duration=5)
    for response, _ in transcribe_every_way(stub, data, filename="a.wav", options=SEPARATE):
        assert response.success and response.audio_duration == 18
        channels = segments_by_channel(response)
        assert sorted(channels) == [1, 2]
        for segments in channels.values():
            assert segments[0].start_s == 0 and segments[-1].end_s == 18
            assert all(a.end_s == b.start_s for a, b in pairwise(segments))
        spoken = {channel: [s for s in segments if s.text] for channel, segments in channels.items()}
        assert spoken[1] and max(s.end_s for s in spoken[1]) < 12 and min(s.start_s for s in spoken[2]) > 6


def test_channels_are_mixed_by_default(serve: Serve) -> None:
    data = multichannel_wav([voice(2), voice(2, seed=1)])
    response, _ = transcribe_file(serve(NumberingService()), data, filename="a.wav")
    assert set(segments_by_channel(response)) == {0}


@pytest.mark.parametrize("fields", [{"filename": "a.raw", "format": "pcm"}, {"filename": "a.wav"}])
def test_mono_recording_has_one_channel(serve: Serve, fields: dict[str, str]) -> None:
    data = pcm(voice(2)) if "format" in fields else multichannel_wav([voice(2)])
    response, _ = transcribe_file(serve(NumberingService()), data, options=SEPARATE, **fields)
    assert response.success and set(segments_by_channel(response)) == {1}


def test_more_than_eight_channels_are_a_content_error(serve: Serve) -> None:
    stub = serve(NumberingService())
    for count, code in ((8, None), (9, "TOO_MANY_CHANNELS")):
        data = multichannel_wav([voice(1)] * count)
        for response, trailers in transcribe_every_way(stub, data, filename="a.wav", options=SEPARATE):
            assert response.success is (code is None) and trailers.get("x-error-code") == code


def test_stereo_call_at_8_khz_gives_the_words_of_each_speaker_in_turn(bundled: Bundled) -> None:
    demo = decoded_by_pydub(bundled.speech.clip, "wav")[::2]
    silent, pause = np.zeros(len(demo), np.float32), np.zeros(40 * RATE // 2, np.float32)  # cut in the pause
    left, right = np.concatenate([demo, pause, silent]), np.concatenate([silent, pause, demo])
    stereo = multichannel_wav([left, right], RATE // 2)
    response, _ = transcribe_file(bundled.stub, stereo, filename="call.wav", options=SEPARATE)
    spoken = [segment for segment in response.segments if segment.text]
    assert [segment.channel for segment in spoken] == sorted(segment.channel for segment in spoken)  # first 1, then 2
    comparable = bundled.speech.comparable
    for channel in (1, 2):
        text = " ".join(segment.text for segment in spoken if segment.channel == channel)
        assert jiwer.wer(comparable(bundled.speech.clip_text), comparable(text)) <= 0.1, text
