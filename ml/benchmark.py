"""Measures the service's engine against the plain design and against the machine: `python -m ml.benchmark`."""

import os
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: python ml/benchmark.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
# Idle OpenMP threads sleep: where anything else runs, spinning slows every operation down many times. The reference
# gains most from this. To be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import tempfile
from collections.abc import Iterator

from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.benchmarks.lines import Line
from ml.benchmarks.meter import describe_machine
from ml.benchmarks.recordings import QUICK, Recordings, Sizes, speech
from ml.benchmarks.report import draw, to_json, to_markdown, to_table
from ml.benchmarks.roofline import Roofline, measure
from ml.benchmarks.served import SERVED, served
from ml.benchmarks.strategies import shared
from ml.benchmarks.weights import ROOT, SHAPES, find_folder, load_weights
from ml.benchmarks.workloads import Workloads
from ml.borealis.config import resolve_device, resolve_dtype
from ml.borealis.runner import make_engine
from ml.errors import ClusterUnavailableError, SpeechError
from ml.heap import tune_malloc

IN_PROCESS = ("clips", "file", "clients", "beside", "lengths")
WORKLOADS = (*IN_PROCESS, "stream", "http")
CLUSTER = "cluster"  # needs requirements-ray.txt, and no weights: its replicas sleep
MAX_DURATION_S = 24 * 3600.0
RANDOM_NEW_TOKENS = 160  # dense Russian speech in 30 s
NEW_TOKENS = 350  # the service's default
OUTPUTS = ("json", "markdown", "plot")  # options that change no figure


def main(arguments: list[str] | None = None, sizes: Sizes | None = None) -> int:
    """Run the workloads asked for, print the table and write the files asked for; `sizes` are for tests."""
    parser = _parser()
    flags = parser.parse_args(arguments)
    if flags.plot and "clients" not in flags.workloads:
        parser.error("для --plot нужна нагрузка clients (--workloads)")
    if CLUSTER in flags.workloads and len(flags.workloads) > 1:
        parser.error("нагрузка cluster измеряется сама по себе")
    tune_malloc()  # as the service does
    flags.new_tokens = flags.new_tokens or (RANDOM_NEW_TOKENS if flags.weights in SHAPES else NEW_TOKENS)
    options = {key: value for key, value in vars(flags).items() if key not in OUTPUTS}
    lines: list[Line] = []
    try:
        machine = describe_machine(resolve_device(flags.device))
        for new, roofline in run(flags, sizes or (QUICK if flags.quick else Sizes())):
            lines += new
            print(to_table(new), end="\n\n", flush=True)
            if flags.json:
                flags.json.write_text(to_json(lines, machine, options, roofline), encoding="utf-8")
    except (SpeechError, ValueError) as error:
        print(f"❌ {error}", file=sys.stderr)
        return 1
    if flags.markdown:
        flags.markdown.write_text(to_markdown(lines, machine, options), encoding="utf-8")
    if flags.plot:
        draw(lines, flags.plot)
    return 0


def run(flags: argparse.Namespace, sizes: Sizes) -> Iterator[tuple[list[Line], Roofline | None]]:
    """Yield the lines of one workload after the other, and what the machine can do at most.

    Raises SpeechError or ValueError for flags that cannot be met.
    """
    if flags.workloads == [CLUSTER]:
        yield _measure_cluster(sizes), None
        return
    device, folder = resolve_device(flags.device), find_folder(flags.weights)
    dtype = resolve_dtype(flags.dtype, device)
    model = load_weights(flags.weights, device, dtype, flags.new_tokens, flags.ignore_eos)
    decoder = AudioDecoder(find_ffmpeg(None), MAX_DURATION_S, timeout_s=MAX_DURATION_S)
    with tempfile.TemporaryDirectory() as written:
        recordings = Recordings(Path(written), speech(decoder, ROOT / "resources" / "samples"))
        with make_engine(model, flags.slots) as engine:
            engine.warm_up()
            strategy, keep_text = shared(engine, flags.slots), folder is not None
            workloads = Workloads(model, decoder, recordings, strategy, flags.slots, flags.threads, sizes, keep_text)
            for name in (name for name in IN_PROCESS if name in flags.workloads):
                yield getattr(workloads, name)(), measure(model, flags.slots)
        names = [name for name in SERVED if name in flags.workloads]
        if names and folder:
            roofline = measure(model, flags.slots)
            with served(folder, device, dtype, flags.slots, flags.new_tokens) as server:
                for name in names:
                    yield SERVED[name](server, recordings, sizes), roofline


def _measure_cluster(sizes: Sizes) -> list[Line]:
    try:
        from ml.benchmarks.cluster import measure_cluster
    except ModuleNotFoundError as error:
        raise ClusterUnavailableError(
            "Нагрузке cluster нужен пакет Ray: pip install -r requirements-ray.txt"
        ) from error
    return measure_cluster(sizes.cluster_chunks, sizes.cluster_calls)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ml/benchmark.py", description="Сравнивает скорость движка сервиса, простой схемы и самой машины"
    )
    names = ", ".join(SHAPES)
    parser.add_argument("--weights", default="bundled", metavar="W", help=f"bundled, папка модели или {names}")
    parser.add_argument("--device", default="cuda", metavar="D", help="cuda, cuda:N или cpu; по умолчанию %(default)s")
    parser.add_argument("--dtype", default="auto", help="auto, bfloat16, float16 или float32")
    parser.add_argument("--slots", type=int, default=32, metavar="N", help="фрагментов в движке сразу")
    parser.add_argument("--threads", type=int, nargs="+", default=[10, 32], metavar="N", help="потоков сервера")
    parser.add_argument("--ignore-eos", action="store_true", help="каждый фрагмент получает --new-tokens токенов")
    parser.add_argument("--new-tokens", type=int, metavar="N", help="наибольшая длина ответа, токенов")
    parser.add_argument(
        "--workloads", nargs="+", choices=(*WORKLOADS, CLUSTER), default=WORKLOADS, metavar="W",
        help="из: %(choices)s; cluster — только сама по себе",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="короткие записи: проверка, а не измерение")
    parser.add_argument("--json", type=Path, metavar="FILE", help="куда записать все числа")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="куда записать таблицы для страницы")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="куда нарисовать график по числу клиентов")
    return parser


if __name__ == "__main__":
    sys.exit(main())
