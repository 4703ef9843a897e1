"""The operator's papers: docs/operations.md and SECURITY.md name settings, metrics, files and tests that exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from api.grpc.auth import TokenCheck
from ml import heap
from resources.config import PROJECT_ROOT, Settings
from tests.repo.test_deploy import metric_families, possible_outcomes
from tests.repo.test_docs import code_blocks, read

OPERATIONS, SECURITY = PROJECT_ROOT / "docs" / "operations.md", PROJECT_ROOT / "SECURITY.md"
PAPERS = (OPERATIONS, SECURITY)
SETTINGS = {name.upper() for name in Settings.model_fields}
# Variables, but not the service's.
NO_SETTINGS = {"HF_HOME", "TMPDIR", "DEVICE", "CPU_BASE", "CUDA_BASE", *heap.MALLOC_OPTIONS}


def in_backticks(paper: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", read(paper))


def named_capitals(paper: Path) -> set[str]:
    """Names such as SETTING and STATUS in backticks, those before a `=` too."""
    names = {match[1] for text in in_backticks(paper) if (match := re.fullmatch(r"([A-Z][A-Z_]+)(?:=\S+)?", text))}
    return names - NO_SETTINGS


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
def test_every_setting_and_outcome_named_is_one(paper: Path) -> None:
    names = named_capitals(paper)
    assert len(names & SETTINGS) > 10
    assert names <= SETTINGS | possible_outcomes(), names - SETTINGS - possible_outcomes()


def test_operations_list_exactly_the_metrics_of_the_service() -> None:
    listed = re.findall(r"^\| `(transcription_\w+)` \| (\w+) \|", read(OPERATIONS), re.MULTILINE)
    exposed = [
        (family.name + ("_total" if family.type == "counter" else ""), family.type)
        for family in metric_families()
        if family.name.startswith("transcription_")
    ]
    assert sorted(listed) == sorted(exposed)


def test_tests_named_by_the_security_paper_exist() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (PROJECT_ROOT / "tests").rglob("test_*.py")]
    existing = set(re.findall(r"^def (test_\w+)", "\n".join(sources), re.MULTILINE))
    named = {name for name in in_backticks(SECURITY) if re.fullmatch(r"test_\w+", name)}
    assert len(named) > 30
    assert named <= existing, named - existing


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
def test_named_and_linked_files_exist(paper: Path) -> None:
    linked = [link for link in re.findall(r"\]\(([^)]+)\)", read(paper)) if "://" not in link]
    assert linked and all((paper.parent / link).is_file() for link in linked)
    named = [name for name in in_backticks(paper) if re.fullmatch(r"(?:[\w.-]+/)+[\w.-]+\.\w+", name)]
    assert named and all((PROJECT_ROOT / name).is_file() for name in named), named


def test_line_that_makes_a_token_makes_one_that_its_hash_lets_in() -> None:
    (line,) = re.findall(r'^python -c "(.+)"$', "\n".join(code_blocks(read(OPERATIONS))), re.MULTILINE)
    made = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, timeout=60, check=True)
    token, digest = made.stdout.split()
    assert len(token) >= 32
    (known,) = Settings(_env_file=None, auth_token_hashes=digest).auth_token_hashes
    assert TokenCheck([known]).allows([("authorization", f"Bearer {token}")])
