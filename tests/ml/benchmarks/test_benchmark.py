"""The benchmark end to end, with a random model and next to no work."""

import json
import shutil
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml import benchmark
from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.benchmarks.floor import encoder_products
from ml.benchmarks.recordings import Recordings, noise_bursts, speech
from ml.benchmarks.reference import embed, generate
from ml.benchmarks.report import COLUMNS
from ml.benchmarks.sizes import Sizes
from ml.benchmarks.stages import STAGES, Stages
from ml.benchmarks.weights import ROOT, SHAPES, load_weights, set_eos

LEAST = Sizes(
    clip_s=1.0, clips=2, file_s=2.0, long_s=31.0, lengths_s=(2.0, 31.0), clients=(1, 2), clips_per_series=2,
    beside=1, head_start_s=0.0, calls=1, repeats=1, floor_repeats=1,
)  # fmt: skip
NEW_TOKENS = 4
SAMPLES = ROOT / "resources" / "samples"
FLAGS = ["--weights", "random-smallest", "--device", "cpu", "--ignore-eos", "--new-tokens", str(NEW_TOKENS)]
IN_PROCESS = [name for name in benchmark.WORKLOADS if name not in benchmark.THROUGH_SERVER]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run of everything but what goes through a server leaves behind."""
    folder = tmp_path_factory.mktemp("benchmark")
    files = [
        f"--{kind}={folder / name}"
        for kind, name in (("json", "run.json"), ("plot", "run.png"), ("markdown", "run.md"))
    ]
    assert benchmark.main([*FLAGS, "--threads", "2", *files, "--workloads", *IN_PROCESS], LEAST) == 0
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def lines(found: dict[str, Any], strategy: str, workload: str) -> list[dict[str, Any]]:
    return [line for line in found["lines"] if line["strategy"] == strategy and line["workload"].startswith(workload)]


@pytest.mark.parametrize("strategy", ["reference", "engine", "bare"])
def test_every_strategy_fills_every_column(found: dict[str, Any], strategy: str) -> None:
    (line,) = lines(found, strategy, "2 clips of 1 s")
    for name in ("rtfx", "p50_s", "p95_s", "p99_s", "mean_batch", "cpu_s", "floor_share", "best_floor_share"):
        assert line[name] > 0, name
    for stage in ("decode", "split", "features", "encode", "prefill", "steps"):
        assert line["stages_s"][stage] > 0, stage
    assert line["chunks"] == line["requests"] == 2


def test_engine_and_reference_do_the_same_work_and_are_compared(found: dict[str, Any]) -> None:
    for workload in ("2 clips", "a file of 2 s", "a file of 31 s", "1 clients", "2 clients"):
        (reference,), (engine,) = lines(found, "reference", workload)[:1], lines(found, "engine", workload)[:1]
        assert engine["chunks"] == reference["chunks"]
        assert engine["audio_s"] == reference["audio_s"]
        assert reference["ratio"] == 1.0
        assert engine["ratio"] == pytest.approx(reference["elapsed_s"] / engine["elapsed_s"])


def test_clips_beside_a_long_file_are_compared_with_clips_alone(found: dict[str, Any]) -> None:
    for strategy in ("reference", "engine"):
        (line,) = lines(found, strategy, "a clip beside")
        assert line["idle_p50_s"] > 0


def test_every_length_of_file_has_its_cost(found: dict[str, Any]) -> None:
    costs = lines(found, "engine", "cost of a file")
    assert [line["workload"].split()[-2] for line in costs] == ["2", "31"]
    assert [line["requests"] for line in costs] == [16, 1]  # so many make half a minute


def test_recording_shipped_in_two_formats_is_heard_once(tmp_path: Path) -> None:
    for name in ("demo.mp3", "demo.wav", "no_speech.wav"):
        shutil.copy(SAMPLES / name, tmp_path)
    decoder = AudioDecoder(find_ffmpeg(None), 60.0, timeout_s=60.0)
    found = speech(decoder, tmp_path)
    once_each = b"".join((tmp_path / name).read_bytes() for name in ("demo.wav", "no_speech.wav"))
    assert found is not None and len(found) == pytest.approx(len(once_each) / 2, abs=100)  # but for the headers


def test_report_says_on_what_it_was_measured(found: dict[str, Any]) -> None:
    assert found["machine"]["torch"] == torch.__version__
    assert found["options"]["weights"] == "random-smallest"
    assert found["floor"]["copy_gb_per_s"] > 0
    assert found["floor"]["gflops"]["fc1, torch"] > 0


def test_tables_for_the_page_have_every_column_in_every_row(folder: Path) -> None:
    ran_on, aims, table = (folder / "run.md").read_text(encoding="utf-8").strip().split("\n\n")
    assert torch.__version__ in ran_on and "weights random-smallest" in ran_on
    assert {row.count("|") for row in table.splitlines()} == {len(COLUMNS) + 3}
    assert {row.count("|") for row in aims.splitlines()} == {5}
    for name in (
        "a file of 2 s",
        "a file of 31 s",
        "a clip beside",
        "cost of an hour",
        "cost of a chunk",
        "2 clips of 1 s, of the floor",
    ):
        assert f"| {name}" in aims


def test_plot_is_an_image(folder: Path) -> None:
    assert (folder / "run.png").read_bytes().startswith(b"\x89PNG")


def test_plot_without_clients_is_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main([*FLAGS, "--plot", "x.png", "--workloads", "clips"], LEAST)
    assert "clients" in capsys.readouterr().err


def test_unknown_weights_are_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--weights", "no-such-folder", "--device", "cpu"], LEAST) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_calls_go_through_a_real_server(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    assert benchmark.main([*FLAGS, "--json", str(file), "--workloads", "calls"], LEAST) == 0
    ways = json.loads(file.read_text(encoding="utf-8"))["lines"]
    assert [line["strategy"] for line in ways] == ["bare", "engine", "gRPC"]
    assert ways[0]["over_bare_s"] == 0
    assert all(line["p50_s"] > 0 for line in ways)


@pytest.mark.slow
def test_stream_is_compared_with_the_unary_call_of_the_same_server(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    assert benchmark.main([*FLAGS, "--json", str(file), "--workloads", "stream"], LEAST) == 0
    unary, stream = json.loads(file.read_text(encoding="utf-8"))["lines"]
    assert (unary["strategy"], stream["strategy"]) == ("unary", "stream")
    assert unary["audio_s"] == stream["audio_s"] == 2.0
    assert stream["upload_s"] <= stream["elapsed_s"] and stream["tail_share"] == stream["p50_s"] / unary["p50_s"]


def test_without_ends_every_chunk_gets_as_many_tokens() -> None:
    model = load_weights("random-smallest", torch.device("cpu"), torch.float32, NEW_TOKENS, ignore_eos=True)
    inputs = embed(model, model.encode(model.features([np.zeros(16_000, np.float32)])))
    first = int(generate(model, inputs)[0, 0])
    set_eos(model, first)
    assert generate(model, inputs).shape == (1, 1)
    set_eos(model, None)
    assert generate(model, inputs).shape == (1, NEW_TOKENS)


def test_full_shape_costs_the_encoder_what_the_facts_say() -> None:
    """2.3 TFLOP a chunk. The shape is enough: the weights are never made."""

    class Audio:
        hidden_size, intermediate_size, num_hidden_layers = 1280, 5120, 32
        num_attention_heads, num_mel_bins = 20, 128

    class Network:
        class config:
            audio_config = Audio

            class text_config:
                hidden_size = SHAPES["random-full"].decoder_width

    class Model:
        network = Network

    flops = sum(product.flops for product in encoder_products(Model))  # type: ignore[arg-type]
    assert flops == pytest.approx(2.3e12, rel=0.02)


def test_recordings_have_the_length_asked_for_and_differ(tmp_path: Path) -> None:
    recordings = Recordings(tmp_path, noise_bursts(5.0))
    paths = [*recordings.clips(2.0, 2), recordings.wav(12.0)]
    contents = []
    for path in paths:
        with wave.open(str(path)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
            contents.append(file.readframes(file.getnframes()))
    assert [len(content) / 32_000 for content in contents] == [2.0, 2.0, 12.0]
    assert contents[0] != contents[1]
    assert contents[2][:160_000] == contents[2][160_000:320_000]  # the sound, over and over


def test_stage_times_add_up_over_blocks() -> None:
    stages = Stages(torch.device("cpu"))
    for _ in range(2):
        with stages.time("encode"):
            pass
    stages.add("encode", 1.0)
    stages.count("n_steps", 3)
    assert 1.0 < stages.totals()["encode"] < 1.1
    assert stages.totals() == stages.totals()
    assert stages.counts() == {"n_steps": 3}
    assert "encode" in STAGES
