"""The documents name files, links and error codes that exist."""

import re
from pathlib import Path

import pytest

from ml.errors import SpeechError
from resources.config import PROJECT_ROOT
from services.transcription.errors import IN_BAND, outcome_of

API = PROJECT_ROOT / "api" / "grpc" / "README.md"
DOCUMENTS = tuple(
    PROJECT_ROOT / name
    for name in (
        "README.md",
        "README.ru.md",
        "CONTRIBUTING.md",
        "api/grpc/README.md",
        "services/transcription/README.md",
        "docs/architecture.md",
        "docs/configuration.md",
        "docs/operations.md",
        "SECURITY.md",
        "tests/faults/README.md",
    )
)

BASES = {"AUDIO_ERROR", "INVALID_REQUEST", "SPEECH_ERROR"}  # never sent: only their leaves are raised


def read(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def code_blocks(text: str) -> list[str]:
    """The fenced blocks without their comments."""
    blocks = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    return [re.sub(r"(#|// ).*", "", block).strip() for block in blocks]


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ .*", prose(text), re.MULTILINE)


def errors_below(kind: type[SpeechError] = SpeechError) -> set[type[SpeechError]]:
    """The error classes of the project below `kind`, without those that other tests define."""
    kinds = {error for child in kind.__subclasses__() for error in {child, *errors_below(child)}}
    return {kind for kind in kinds if kind.__module__.startswith(("ml.", "services."))}


def test_error_tables_state_every_code_with_its_outcome() -> None:
    rows = [line.split("|") for line in read(API).splitlines() if line.startswith("| `")]
    stated = {code: row[2].strip() for row in rows for code in re.findall(r"`([A-Z_]+)`", row[1])}
    expected = {}
    for kind in errors_below():
        outcome = outcome_of(kind("x"))
        expected[kind.code] = "in-band" if outcome is IN_BAND else outcome.name
    assert {code: stated.get(code) for code in expected if code not in BASES} == {
        code: outcome for code, outcome in expected.items() if code not in BASES
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(PROJECT_ROOT)))
def test_linked_files_exist(document: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", read(document)) if "://" not in link]
    anchors = {
        re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-") for heading in headings(read(document))
    }
    for link in links:
        assert link[1:] in anchors if link.startswith("#") else (document.parent / link).is_file(), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(PROJECT_ROOT)))
def test_named_files_exist(document: Path) -> None:
    """Every path in backticks that looks like a source file exists, from the root or the document's own folder."""
    examples = {"google_speech_service.py", "transcript.txt", "manifest.tsv", "report.json"}
    named = re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|md|proto|txt|bat|example|sh))`", prose(read(document)))
    folders = ("api", "docs", "ml", "proto", "resources", "services", "tests")
    known = {path.name for folder in folders for path in (PROJECT_ROOT / folder).rglob("*.*")}
    known |= {path.name for path in PROJECT_ROOT.iterdir()}
    for name in named:
        short = name.rsplit("/", 1)[-1]
        if short not in examples:
            found = (PROJECT_ROOT / name).is_file() or (document.parent / name).is_file()
            assert found or ("/" not in name and short in known), name


@pytest.mark.parametrize("name", ["demo.bat", "test.bat", "generate_proto.bat"])
def test_windows_scripts_have_windows_line_ends(name: str) -> None:
    lines = (PROJECT_ROOT / name).read_bytes().split(b"\n")
    assert len(lines) > 4 and all(line.endswith(b"\r") for line in lines[:-1])
