"""The simulation behind docs/scaling.md, against what queueing theory knows."""

from pathlib import Path

import numpy as np
import pytest

from ml.benchmarks import queueing
from ml.benchmarks.queueing import Load, simulate

ONE_SLOT = Load(mean_length_s=10, spread=0.0, slots=1, speed=30)  # each recording is one chunk and takes one second


@pytest.mark.parametrize("utilisation", [0.3, 0.7])
def test_one_slot_waits_as_long_as_pollaczek_and_khinchine_say(utilisation: float) -> None:
    mean_wait_s = simulate(ONE_SLOT, 1, utilisation, 60_000).mean() - 1
    assert mean_wait_s == pytest.approx(utilisation / (2 * (1 - utilisation)), rel=0.06)  # M/D/1


def test_next_to_no_load_takes_as_long_as_the_turns_of_the_slots() -> None:
    load = Load(mean_length_s=30 * 100, spread=0.0, slots=32, speed=960)  # 100 chunks of one second: 4 turns of 32
    assert np.percentile(simulate(load, 1, 0.001, 100), (0, 50)) == pytest.approx([4.0, 4.0])
    assert np.percentile(simulate(load, 4, 0.001, 100), (0, 50)) == pytest.approx([1.0, 1.0])


def test_shared_gpus_wait_less_at_the_same_load() -> None:
    alone, shared = (simulate(Load(), gpus, 0.8, 3000) for gpus in (1, 8))
    assert np.percentile(shared, 95) < np.percentile(alone, 95) / 2


def test_table_and_plot_come_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "q.png"
    flags = ["--gpus", "1", "2", "--utilisation", "0.5", "0.8", "--recordings", "200", "--plot", str(plot)]
    assert queueing.main(flags) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5 and plot.read_bytes().startswith(b"\x89PNG")
