"""The implementation onnx: a real server over fabricated models."""

import sys
from pathlib import Path

import pytest

from generated.v1 import transcription_pb2
from ml.errors import PackageMissingError
from ml.interfaces import Waveform
from services.transcription.implementations.onnx_service import OnnxTranscriptionService
from tests.conftest import Serve, Stub
from tests.support.audio import wav
from tests.support.onnx_models import gigaam_ctc, minute, tones, whisper
from tests.support.waiting import HANG_LIMIT_S


def transcribe(stub: Stub, sound: Waveform, **options: object) -> transcription_pb2.TranscriptionResponse:
    request = transcription_pb2.AudioRequest(audio_data=wav(sound), filename="a.wav", options=options)
    response: transcription_pb2.TranscriptionResponse = stub.TranscribeAudio(request, timeout=HANG_LIMIT_S)
    assert response.success, response.error_message
    return response


@pytest.mark.parametrize(("asked_s", "longest_s"), [(30, 24), (10, 10)])
def test_a_recording_is_cut_at_the_longest_chunk_of_the_model_and_of_the_settings(
    serve: Serve, tmp_path: Path, asked_s: float, longest_s: float
) -> None:
    gigaam_ctc(tmp_path)
    stub = serve(OnnxTranscriptionService(), model_name=str(tmp_path), model_chunk_duration=asked_s)
    text = "а о о а о а а о а о о а"
    response = transcribe(stub, minute(text))
    assert response.transcript == text
    assert max(segment.end_s - segment.start_s for segment in response.segments) <= longest_s
    assert response.model_name == tmp_path.name
    assert not response.warnings


def test_what_a_model_can_do_follows_from_its_kind(serve: Serve, tmp_path: Path) -> None:
    gigaam_ctc(tmp_path / "gigaam")
    (tmp_path / "whisper").mkdir()
    whisper(tmp_path / "whisper")
    russian = serve(OnnxTranscriptionService(), model_name=str(tmp_path / "gigaam"))
    several = serve(OnnxTranscriptionService(), model_name=str(tmp_path / "whisper"))
    assert len(transcribe(russian, tones("а"), language="en").warnings) == 1
    assert not transcribe(several, tones("а"), language="en").warnings
    assert not transcribe(several, tones("а"), language="auto").warnings


def test_without_its_packages_the_implementation_says_what_to_install(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx_asr", None)
    with pytest.raises(PackageMissingError, match=r"requirements-onnx\.txt"):
        serve(OnnxTranscriptionService())
