"""Measures the service's engine against the plain design and against the machine: `python -m ml.benchmark`."""

import os
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: python ml/benchmark.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
# Threads that wait for each other shall not spin: on a machine that does anything else besides, spinning slows every
# operation down many times. The reference gains most from this. To be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NoReturn

from tqdm import tqdm

from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.benchmarks import floor, machine
from ml.benchmarks.aims import to_aims
from ml.benchmarks.bench import Bench
from ml.benchmarks.calls import measure_calls
from ml.benchmarks.figures import Line
from ml.benchmarks.plot import draw
from ml.benchmarks.recordings import Recordings, noise_bursts, speech
from ml.benchmarks.report import describe, to_json, to_markdown, to_table
from ml.benchmarks.sizes import QUICK, Sizes
from ml.benchmarks.strategies import Bare, Reference, Shared
from ml.benchmarks.stream import measure_stream
from ml.benchmarks.weights import ROOT, SHAPES, as_served, checkpoint_folder, load_weights
from ml.borealis.config import resolve_device, resolve_dtype
from ml.errors import ClusterUnavailableError, SpeechError
from ml.heap import tune_malloc

WORKLOADS = ("calls", "clips", "file", "clients", "beside", "long_file", "lengths", "stream")
THROUGH_SERVER = ("calls", "stream")
CLUSTER = "cluster"  # needs requirements-ray.txt, and no weights: its replicas sleep
MAX_DURATION_S = 24 * 3600.0
RANDOM_NEW_TOKENS = 160  # dense Russian speech in 30 s
NEW_TOKENS = 350  # the service's default
OUTPUTS = ("json", "markdown", "plot")  # options that change no figure

Known = tuple[dict[str, str | int], dict[str, object], floor.Floor | None]
"""The machine, the options and the floor."""


def main(arguments: list[str] | None = None, sizes: Sizes | None = None) -> int:
    """Runs the workloads asked for, prints the table and writes the files asked for; `sizes` are for tests."""
    parser = _parser()
    flags = parser.parse_args(arguments)
    if flags.plot and "clients" not in flags.workloads:
        parser.error("для --plot нужна нагрузка clients (--workloads)")
    if CLUSTER in flags.workloads and len(flags.workloads) > 1:
        parser.error("нагрузка cluster измеряется сама по себе")
    tune_malloc()  # as the service does
    lines: list[Line] = []
    try:
        for new, known in run(flags, sizes or (QUICK if flags.quick else Sizes())):
            lines += new
            print(to_table(new), end="\n\n", flush=True)
            if flags.json:
                flags.json.write_text(to_json(lines, *known), encoding="utf-8")
    except (SpeechError, ValueError) as error:
        print(f"❌ {error}", file=sys.stderr)
        return 1
    aims = to_aims(lines, resolve_device(flags.device).type)
    print(aims)
    if flags.markdown:
        machine_and_options = describe(*known[:2])
        flags.markdown.write_text(f"{machine_and_options}\n\n{aims}\n\n{to_markdown(lines)}\n", encoding="utf-8")
    if flags.plot:
        draw(lines, flags.plot)
    return 0


def run(flags: argparse.Namespace, sizes: Sizes) -> Iterator[tuple[list[Line], Known]]:
    """The lines of one workload after the other, and what else there is to know of them.

    Raises SpeechError or ValueError for flags that cannot be met.
    """
    device = resolve_device(flags.device)
    if flags.workloads == [CLUSTER]:
        yield _measure_cluster(sizes), (machine.describe(device), {"workloads": [CLUSTER]}, None)
        return
    new_tokens = flags.new_tokens or (RANDOM_NEW_TOKENS if flags.weights in SHAPES else NEW_TOKENS)
    dtype = resolve_dtype(flags.dtype, device)
    model = load_weights(flags.weights, device, dtype, new_tokens, flags.ignore_eos)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        decoder = AudioDecoder(find_ffmpeg(None), MAX_DURATION_S, timeout_s=MAX_DURATION_S)
        sound = None if flags.weights in SHAPES else speech(decoder, ROOT / "resources" / "samples")
        bar = stack.enter_context(tqdm(desc="Записей распознано", unit="", disable=None, file=sys.stderr))
        bench = Bench(
            model=model,
            decoder=decoder,
            recordings=Recordings(folder, noise_bursts() if sound is None else sound),
            reference=Reference(model),
            engine=stack.enter_context(Shared(model, flags.slots)),
            bare=Bare(model),
            slots=flags.slots,
            threads=tuple(flags.threads),
            sizes=sizes,
            babbles=flags.weights in SHAPES,
            on_answer=lambda workload: _show(bar, workload),
        )
        options = {key: value for key, value in vars(flags).items() if key not in OUTPUTS} | {"new_tokens": new_tokens}
        for name in (name for name in WORKLOADS if name in flags.workloads):
            lines = _measure(name, bench, flags.weights)
            yield lines, (machine.describe(device), options, floor.measure(model, flags.slots, sizes.floor_repeats))


def _measure_cluster(sizes: Sizes) -> list[Line]:
    try:
        from ml.benchmarks.cluster import measure_cluster
    except ModuleNotFoundError as error:
        raise ClusterUnavailableError(
            "Нагрузке cluster нужен пакет Ray: pip install -r requirements-ray.txt"
        ) from error
    with tqdm(desc=CLUSTER, unit="", disable=None, file=sys.stderr) as bar:
        return measure_cluster(sizes.cluster_chunks, sizes.calls, bar.update)


def _measure(name: str, bench: Bench, weights: str) -> list[Line]:
    if name not in THROUGH_SERVER:
        lines: list[Line] = getattr(bench, name)()
        return lines
    with checkpoint_folder(weights, bench.model) as folder, as_served(weights, bench.model):
        if name == "stream":
            path, repeats = bench.recordings.wav(bench.sizes.file_s), bench.sizes.repeats
            return measure_stream(bench.model, folder, bench.slots, path, repeats, lambda: bench.on_answer("stream"))
        path, count = bench.recordings.wav(bench.sizes.clip_s), bench.sizes.calls
        return measure_calls(
            bench.model, folder, bench.slots, path, bench.decoder, count, lambda: bench.on_answer("calls")
        )


def _show(bar: "tqdm[NoReturn]", workload: str) -> None:
    bar.set_postfix_str(workload, refresh=False)
    bar.update()


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
