"""docs/operations.md and SECURITY.md name settings, metrics and tests that exist."""

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
DOCUMENTS = (OPERATIONS, SECURITY)
SETTINGS = {name.upper() for name in Settings.model_fields}
# Environment variables that are not settings of the service.
OTHER_VARIABLES = {"HF_HOME", "TMPDIR", "DEVICE", "CPU_BASE", "CUDA_BASE", *heap.MALLOC_OPTIONS}


def in_backticks(document: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", read(document))


def named_capitals(document: Path) -> set[str]:
    """Names such as SETTING and STATUS in backticks, also before a `=`."""
    names = {match[1] for text in in_backticks(document) if (match := re.fullmatch(r"([A-Z][A-Z_]+)(?:=\S+)?", text))}
    return names - OTHER_VARIABLES


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_setting_and_outcome_named_is_one(document: Path) -> None:
    names = named_capitals(document)
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


def test_tests_named_in_security_md_exist() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (PROJECT_ROOT / "tests").rglob("test_*.py")]
    existing = set(re.findall(r"^def (test_\w+)", "\n".join(sources), re.MULTILINE))
    named = {name for name in in_backticks(SECURITY) if re.fullmatch(r"test_\w+", name)}
    assert len(named) > 30
    assert named <= existing, named - existing


def test_command_that_makes_a_token_makes_one_that_its_hash_accepts() -> None:
    (line,) = re.findall(r'^python -c "(.+)"$', "\n".join(code_blocks(read(OPERATIONS))), re.MULTILINE)
    made = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, timeout=60, check=True)
    token, digest = made.stdout.split()
    assert len(token) >= 32
    (known,) = Settings(_env_file=None, auth_token_hashes=digest).auth_token_hashes
    assert TokenCheck([known]).allows([("authorization", f"Bearer {token}")])
