"""The benchmark end to end, with a random model and next to no work."""

import json
import shutil
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import VoxtralForConditionalGeneration

from ml import benchmark
from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.benchmarks.lines import Run, to_line
from ml.benchmarks.meter import Usage
from ml.benchmarks.recordings import Recordings, Sizes, speech
from ml.benchmarks.report import COLUMNS
from ml.benchmarks.roofline import Roofline, encoder_flops
from ml.benchmarks.strategies import embed, generate, transcribe_batch
from ml.benchmarks.weights import ROOT, SHAPES, load_weights, set_eos
from ml.borealis.model import BorealisModel
from ml.tiny_model.network import make_config
from ml.tiny_model.tokenizer import train_tokenizer

LEAST = Sizes(
    clip_s=4.0, clips=2, file_s=4.0, long_s=31.0, lengths_s=(4.0, 31.0), clients=(1, 2), clips_per_series=2,
    beside=1, head_start_s=0.0, repeats=1,
)  # fmt: skip
NEW_TOKENS = 4
SAMPLES = ROOT / "resources" / "samples"
FLAGS = ["--weights", "random-smallest", "--device", "cpu", "--ignore-eos", "--new-tokens", str(NEW_TOKENS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run of all workloads in this process leaves behind."""
    folder = tmp_path_factory.mktemp("benchmark")
    files = [f"--{kind}={folder / f'run.{ending}'}" for kind, ending in (("json", "json"), ("plot", "png"))]
    files.append(f"--markdown={folder / 'run.md'}")
    assert benchmark.main([*FLAGS, "--threads", "2", *files], LEAST) == 0
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def smallest() -> BorealisModel:
    return load_weights("random-smallest", torch.device("cpu"), torch.float32, NEW_TOKENS, ignore_eos=True)


def lines(found: dict[str, Any], strategy: str, workload: str) -> list[dict[str, Any]]:
    return [line for line in found["lines"] if line["strategy"] == strategy and line["workload"].startswith(workload)]


@pytest.mark.parametrize("strategy", ["reference", "engine", "bare"])
def test_every_strategy_is_measured(found: dict[str, Any], strategy: str) -> None:
    (line,) = lines(found, strategy, "2 clips of 4 s")
    for name in ("rtfx", "p50_s", "p95_s", "p99_s", "cpu_s", "floor_share", "peak_bytes"):
        assert line[name] > 0, name
    assert line["chunks"] == line["requests"] == 2


def test_line_of_the_engine_says_where_its_time_went(found: dict[str, Any]) -> None:
    (line,) = lines(found, "engine", "2 clips of 4 s")
    assert 0 < line["stats"]["steps"] <= line["stats"]["stepped_rows"] <= 2 * NEW_TOKENS
    for name in ("encode_s", "prefill_s", "step_s"):
        assert line["stats"][name] > 0, name


def test_engine_and_reference_do_the_same_work_and_are_compared(found: dict[str, Any]) -> None:
    for workload in ("2 clips", "a file of 4 s", "1 clients", "2 clients"):
        (reference,), (engine,) = lines(found, "reference", workload), lines(found, "engine", workload)
        assert engine["chunks"] == reference["chunks"]
        assert engine["audio_s"] == reference["audio_s"]
        assert reference["ratio"] == 1.0
        assert engine["ratio"] == pytest.approx(reference["elapsed_s"] / engine["elapsed_s"])


def test_clips_beside_a_long_file_are_compared_with_clips_alone(found: dict[str, Any]) -> None:
    for strategy in ("reference", "engine"):
        (line,) = lines(found, strategy, "a clip beside")
        assert line["extra"]["times_idle"] == pytest.approx(line["p50_s"] / line["extra"]["idle_p50_s"])


def test_every_length_of_file_has_its_cost(found: dict[str, Any]) -> None:
    costs = lines(found, "engine", "files of")
    assert [line["workload"] for line in costs] == ["files of 4 s", "files of 31 s"]
    assert [line["requests"] for line in costs] == [8, 1]  # so many make half a minute
    for line in costs:
        assert line["extra"]["s_per_hour"] == pytest.approx(3600 * line["elapsed_s"] / line["audio_s"])


def test_what_needs_a_checkpoint_folder_is_left_out_with_random_weights(found: dict[str, Any]) -> None:
    assert {line["strategy"] for line in found["lines"]} == {"reference", "engine", "bare"}


def test_report_names_the_machine_and_the_options(found: dict[str, Any], folder: Path) -> None:
    assert found["machine"]["torch"] == torch.__version__
    assert found["options"]["weights"] == "random-smallest"
    assert found["roofline"]["copy_gb_per_s"] > 0 and found["roofline"]["gflops"] > 0
    ran_on, table = (folder / "run.md").read_text(encoding="utf-8").strip().split("\n\n")
    assert torch.__version__ in ran_on and "weights random-smallest" in ran_on
    assert {row.count("|") for row in table.splitlines()} == {len(COLUMNS) + 2}


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
def test_stream_and_clips_beside_a_file_go_through_a_real_server(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    sizes = Sizes(clip_s=1.0, file_s=2.0, long_s=1200.0, beside=1, repeats=1, head_start_s=0.0)
    flags = ["--device", "cpu", "--slots", "4", "--json", str(file), "--workloads", "beside", "stream"]
    assert benchmark.main(flags, sizes) == 0
    *_, unary, stream, beside = json.loads(file.read_text(encoding="utf-8"))["lines"]
    assert [line["strategy"] for line in (unary, stream, beside)] == ["unary", "stream", "server"]
    assert beside["audio_s"] == 1.0 and beside["extra"]["idle_p50_s"] > 0 and beside["extra"]["file_throughput"] > 0
    assert unary["audio_s"] == stream["audio_s"] == 2.0
    assert stream["extra"]["share_of_unary"] == stream["p50_s"] / unary["p50_s"]


@pytest.mark.slow
def test_http_is_compared_with_grpc_through_a_real_server(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    sizes = Sizes(clip_s=1.0, clips=2, http=2)
    flags = ["--device", "cpu", "--slots", "4", "--json", str(file), "--workloads", "http"]
    assert benchmark.main(flags, sizes) == 0
    by_grpc, by_http = json.loads(file.read_text(encoding="utf-8"))["lines"]
    assert (by_grpc["strategy"], by_http["strategy"]) == ("grpc", "http")
    assert by_grpc["requests"] == by_http["requests"] == 2
    assert by_http["extra"]["ms_over_grpc"] == 1000 * (by_http["p50_s"] - by_grpc["p50_s"])
    assert by_http["extra"]["throughput_of_grpc"] > 0


def test_several_runs_become_medians_and_are_compared_round_by_round() -> None:
    def run(elapsed_s: float, latencies_s: list[float], **stats: float) -> Run:
        usage = Usage(elapsed_s, cpu_s=2 * elapsed_s, others=0.0, peak_bytes=1)
        return Run(latencies_s, 60.0, 2, usage, [0.5], stats, floor_s=0.5)

    own = [run(1.0, [1.0], steps=10, stepped_rows=20, waited_s=1.0) for _ in range(3)]
    line = to_line("w", "engine", 1, 1, own, [run(elapsed_s, [9.0]) for elapsed_s in (2.0, 3.0, 40.0)])
    assert (line.ratio, line.cpu_ratio, line.floor_share) == (3.0, 3.0, 0.5)
    assert (line.rtfx, line.mean_batch, line.queue_s, line.p99_s) == (60.0, 2.0, 1.0, 1.0)


def test_bare_call_gives_every_chunk_its_text_alone_and_together(smallest: BorealisModel) -> None:
    waveforms = [np.full(16_000 * seconds, 0.1, np.float32) for seconds in (1, 2)]
    assert transcribe_batch(smallest, waveforms) == [transcribe_batch(smallest, [each])[0] for each in waveforms]
    assert transcribe_batch(smallest, []) == []


def test_without_ends_every_chunk_gets_as_many_tokens(smallest: BorealisModel) -> None:
    inputs = embed(smallest, smallest.encode(smallest.features([np.zeros(16_000, np.float32)])))
    try:
        set_eos(smallest, int(generate(smallest, inputs)[0, 0]))
        assert generate(smallest, inputs).shape == (1, 1)
    finally:
        set_eos(smallest, None)
    assert generate(smallest, inputs).shape == (1, NEW_TOKENS)


def test_full_shape_costs_the_encoder_2_3_tflop_a_chunk() -> None:
    with torch.device("meta"):  # shapes alone
        network = VoxtralForConditionalGeneration(make_config(train_tokenizer(), SHAPES["random-full"]))
    assert encoder_flops(network) == pytest.approx(2.3e12, rel=0.02)


def test_floor_counts_chunks_and_tokens() -> None:
    assert Roofline(chunk_s=2.0, token_s=0.5, gflops=1.0, copy_gb_per_s=1.0).least_s(3, 4) == 8.0


def test_recordings_with_a_text_are_taken_once_whatever_their_formats(tmp_path: Path) -> None:
    for name in ("demo.mp3", "demo.wav", "demo.txt", "no_speech.wav"):
        shutil.copy(SAMPLES / name, tmp_path)
    decoder = AudioDecoder(find_ffmpeg(None), 60.0, timeout_s=60.0)
    assert len(speech(decoder, tmp_path)) == pytest.approx((tmp_path / "demo.wav").stat().st_size / 2, abs=100)


def test_recordings_have_the_length_asked_for_and_differ(tmp_path: Path) -> None:
    source = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * 16_000).astype(np.float32)
    recordings = Recordings(tmp_path, source)
    paths = [*recordings.clips(2.0, 2), recordings.wav(12.0)]
    contents = []
    for path in paths:
        with wave.open(str(path)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
            contents.append(file.readframes(file.getnframes()))
    assert [len(content) / 32_000 for content in contents] == [2.0, 2.0, 12.0]
    assert contents[0] != contents[1]
    assert contents[2][:160_000] == contents[2][160_000:320_000]  # the source, over and over
