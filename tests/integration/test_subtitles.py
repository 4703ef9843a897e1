"""Subtitles of the client from a real server with real weights: none stays over a silence."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from api.grpc.client.cli import main
from ml.interfaces import SAMPLE_RATE, Waveform
from tests.api.client.test_client_dialogue import cues_in
from tests.conftest import BOREALIS, Bundled, sample
from tests.support.audio import decoded_by_pydub, wav

Printed = pytest.CaptureFixture[str]
PAUSES_S = (1.5, 4.0, 2.5)
MARGIN_S = 0.3  # the quiet beginning and end of a word


def with_pauses() -> tuple[Waveform, list[tuple[float, float]]]:
    """Half a minute of words with silences of PAUSES_S between some, and the places of these."""
    path = sample("word_times.wav")
    speech = decoded_by_pydub(path.read_bytes(), "wav")
    words = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    gaps = [(a["end_s"], b["start_s"]) for a, b in pairwise(words) if b["start_s"] - a["end_s"] > 0.3][: len(PAUSES_S)]
    parts, places, at_s, length_s = [], [], 0.0, 0.0
    for (start_s, end_s), pause_s in zip(gaps, PAUSES_S, strict=True):
        middle_s = (start_s + end_s) / 2
        parts += [speech[round(at_s * SAMPLE_RATE) : round(middle_s * SAMPLE_RATE)]]
        length_s += len(parts[-1]) / SAMPLE_RATE
        parts.append(np.zeros(round(pause_s * SAMPLE_RATE), np.float32))
        places.append((length_s, length_s + pause_s))
        length_s, at_s = length_s + pause_s, middle_s
    last = speech[round(at_s * SAMPLE_RATE) : round((at_s + 5) * SAMPLE_RATE)]
    return np.concatenate([*parts, last]), places


@pytest.mark.parametrize("bundled", BOREALIS, indirect=True)  # of the words that this model knows
@pytest.mark.parametrize("way", [[], ["--stream"]])
@pytest.mark.parametrize("words", [[], ["--words"]])
def test_no_subtitle_stays_over_a_silence(
    bundled: Bundled, tmp_path: Path, way: list[str], words: list[str], capsys: Printed
) -> None:
    waveform, pauses = with_pauses()
    recording = tmp_path / "a.wav"
    recording.write_bytes(wav(waveform))
    assert main([str(recording), "--address", bundled.address, "--format", "srt", *words, *way]) == 0
    found = cues_in(capsys.readouterr().out)
    for start_s, end_s in pauses:
        assert not [cue for cue in found if cue[0] < end_s - MARGIN_S and cue[1] > start_s + MARGIN_S], found
    start_s, end_s = pauses[0]  # after a longer silence the bundled model may end its text
    assert any(cue[1] <= start_s + MARGIN_S for cue in found) and any(cue[0] >= end_s - MARGIN_S for cue in found)
    assert all(before[1] <= after[0] for before, after in pairwise(found))
