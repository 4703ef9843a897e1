"""The number of threads follows the quota of the control group, not the cores of the host."""

import os
from pathlib import Path

import pytest

from ml.cpu import cpu_quota, usable_cpus


@pytest.fixture
def membership(tmp_path: Path) -> Path:
    file = tmp_path / "membership"
    file.write_text("0::/system.slice/speech.service\n", encoding="ascii")
    return file


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n", encoding="ascii")


def test_without_a_quota_there_is_no_limit(tmp_path: Path, membership: Path) -> None:
    assert cpu_quota(tmp_path, membership) is None
    write(tmp_path / "system.slice" / "cpu.max", "max 100000")
    assert cpu_quota(tmp_path, membership) is None
    assert usable_cpus(tmp_path, membership) == len(os.sched_getaffinity(0))


def test_the_smallest_quota_on_the_way_to_the_root_counts(tmp_path: Path, membership: Path) -> None:
    write(tmp_path / "system.slice" / "speech.service" / "cpu.max", "400000 100000")
    write(tmp_path / "system.slice" / "cpu.max", "150000 100000")
    assert cpu_quota(tmp_path, membership) == 1.5


def test_in_a_container_the_root_holds_the_quota(tmp_path: Path, membership: Path) -> None:
    write(tmp_path / "cpu.max", "50000 100000")
    assert cpu_quota(tmp_path, membership) == 0.5
    assert usable_cpus(tmp_path, membership) == 1


def test_version_1_has_a_controller_of_its_own(tmp_path: Path, membership: Path) -> None:
    membership.write_text("12:memory:/m\n4:cpu,cpuacct:/docker/abc\n", encoding="ascii")
    write(tmp_path / "cpu" / "docker" / "abc" / "cpu.cfs_quota_us", "200000")
    write(tmp_path / "cpu" / "docker" / "abc" / "cpu.cfs_period_us", "100000")
    write(tmp_path / "cpu" / "cpu.cfs_quota_us", "-1")
    assert cpu_quota(tmp_path, membership) == 2.0


def test_another_system_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, tmp_path / "missing") is None
