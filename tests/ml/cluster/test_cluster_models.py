"""Other models than Borealis in the replicas: the same transcript as in process, cut at their longest chunk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import serve as ray_serve

from ml.cluster.client import connect, disconnect
from ml.manifest import normalise
from services.transcription.implementations.ray_service import (
    OnnxRayTranscriptionService,
    WhisperRayTranscriptionService,
)
from tests.conftest import ON_RAY, RAY_NODE, Serve
from tests.support.audio import wav
from tests.support.messages import transcribe_every_way, transcribe_file
from tests.support.onnx_models import gigaam_ctc, minute
from tests.support.whisper import FREE_TEXT, said, whisper_base

pytestmark = ON_RAY


@pytest.fixture
def address(cluster: Any) -> Iterator[str]:
    """Of a cluster with room for another model's replica, which goes at the end: other tests count on their room."""
    node = cluster.add_node(**RAY_NODE)
    yield cluster.address
    is_new = connect(cluster.address)
    for name in ("whisper", "onnx"):
        ray_serve.delete(name)
    if is_new:
        disconnect()
    cluster.remove_node(node)


@pytest.mark.speech
def test_whisper_in_a_replica_gives_the_words_by_every_call(address: str, serve: Serve) -> None:
    stub = serve(WhisperRayTranscriptionService(), model_name=str(whisper_base()), ray_address=address)
    for response, _ in transcribe_every_way(stub, FREE_TEXT.read_bytes(), filename=FREE_TEXT.name):
        assert normalise(response.transcript) == normalise(said())
        assert response.model_name == whisper_base().name and not response.warnings
    options = {"language": "en", "prompt": "a term"}  # the replicas' model takes both
    assert not transcribe_file(stub, FREE_TEXT.read_bytes(), filename=FREE_TEXT.name, options=options)[0].warnings


def test_longest_chunk_of_the_model_holds_over_a_cluster(address: str, serve: Serve, tmp_path: Path) -> None:
    gigaam_ctc(tmp_path)
    stub = serve(OnnxRayTranscriptionService(), model_name=str(tmp_path), ray_address=address)
    text = "а о о а о а а о а о о а"
    response, _ = transcribe_file(stub, wav(minute(text)), filename="a.wav")
    assert response.transcript == text and response.model_name == tmp_path.name
    assert max(segment.end_s - segment.start_s for segment in response.segments) <= 24
