"""Every error has one outcome and one stable code."""

import grpc
import pytest

import services.transcription.errors as service_errors
from ml.errors import AudioError, RecognitionError, SpeechError
from services.transcription.errors import IN_BAND, outcome_of


def all_errors(root: type[SpeechError] = SpeechError) -> set[type[SpeechError]]:
    return {root}.union(*(all_errors(kind) for kind in root.__subclasses__()))


@pytest.mark.parametrize("kind", sorted(all_errors(), key=lambda kind: kind.__name__))
def test_every_error_has_an_outcome(kind: type[SpeechError]) -> None:
    outcome = outcome_of(kind("сообщение"))
    assert outcome is IN_BAND or isinstance(outcome, grpc.StatusCode)


@pytest.mark.parametrize("kind", sorted(all_errors(AudioError), key=lambda kind: kind.__name__))
def test_content_errors_are_answered_in_band(kind: type[AudioError]) -> None:
    assert outcome_of(kind("сообщение")) is IN_BAND


def test_failure_of_the_model_on_a_chunk_is_answered_in_band() -> None:
    assert outcome_of(RecognitionError("сообщение")) is IN_BAND


def test_codes_are_upper_case_and_unique() -> None:
    codes = [kind.code for kind in all_errors()]
    assert all(code.isupper() for code in codes)
    assert len(codes) == len(set(codes))


def test_docstring_shows_every_error_of_the_module() -> None:
    own = [kind for kind in all_errors() if kind.__module__ == service_errors.__name__]
    assert own and all(kind.__name__ in (service_errors.__doc__ or "") for kind in own)
