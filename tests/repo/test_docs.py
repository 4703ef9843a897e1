"""The papers: both READMEs in step with each other, with the settings, the codes and the files they name."""

import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

from ml.errors import SpeechError
from ml.tiny_model.vocabulary import words
from resources.config import PROJECT_ROOT, Settings
from services.transcription.errors import IN_BAND, outcome_of

ENGLISH, RUSSIAN = PROJECT_ROOT / "README.md", PROJECT_ROOT / "README.ru.md"
API = PROJECT_ROOT / "api" / "grpc" / "README.md"
PAPERS = (ENGLISH, RUSSIAN, API, PROJECT_ROOT / "services" / "transcription" / "README.md")
PAPERS += (PROJECT_ROOT / "docs" / "architecture.md", PROJECT_ROOT / "CONTRIBUTING.md", PROJECT_ROOT / "CHANGELOG.md")

BASES = {"AUDIO_ERROR", "INVALID_REQUEST", "SPEECH_ERROR"}  # never sent: only their leaves are raised


def read(paper: Path) -> str:
    return paper.read_text(encoding="utf-8")


def code_blocks(text: str) -> list[str]:
    """The fenced blocks without their comments, which are translated."""
    blocks = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    return [re.sub(r"(#|// ).*", "", block).strip() for block in blocks]


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ .*", prose(text), re.MULTILINE)


def settings_rows(paper: Path) -> dict[str, str]:
    """The settings table: each setting's name and default."""
    return dict(re.findall(r"^\| `([A-Z][A-Z_]+)` \|(?: `(.*?)`)? \|", prose(read(paper)), re.MULTILINE))


def errors_below(kind: type[SpeechError] = SpeechError) -> set[type[SpeechError]]:
    """Every kind of error of the project below `kind`; other tests may have made kinds of their own."""
    kinds = {error for child in kind.__subclasses__() for error in {child, *errors_below(child)}}
    return {kind for kind in kinds if kind.__module__.startswith(("ml.", "services."))}


def test_headings_of_both_readmes_are_in_step() -> None:
    def shape(paper: Path) -> list[tuple[str, str]]:
        """Of each heading, what no translation changes: its level, and its sign, number or name of a method."""
        marks = [re.match(r"(#+) (\W? ?\d?)", heading) for heading in headings(read(paper))]
        return [mark.groups() for mark in marks if mark]

    assert len(shape(ENGLISH)) > 30
    assert shape(ENGLISH) == shape(RUSSIAN)


def test_code_of_both_readmes_is_the_same_but_for_comments() -> None:
    for english, russian in zip(code_blocks(read(ENGLISH)), code_blocks(read(RUSSIAN)), strict=True):
        assert english == russian


@pytest.mark.parametrize("paper", [ENGLISH, RUSSIAN], ids=lambda paper: paper.name)
def test_settings_table_lists_every_setting_with_its_default(paper: Path) -> None:
    defaults = dotenv_values(PROJECT_ROOT / "resources" / ".env.example", interpolate=False)
    assert settings_rows(paper) == {name.upper(): defaults[name.upper()] for name in Settings.model_fields}


@pytest.mark.parametrize("paper", [ENGLISH, RUSSIAN], ids=lambda paper: paper.name)
def test_readme_counts_the_words_of_the_bundled_model(paper: Path) -> None:
    counts = re.findall(r"(\d+) (?:Russian words|words|русск\w+ слов\w*|слов\w*)\b", prose(read(paper)))
    assert len(counts) >= 2 and set(counts) == {str(len(words()))}


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


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: str(paper.relative_to(PROJECT_ROOT)))
def test_linked_files_exist(paper: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", read(paper)) if "://" not in link]
    anchors = {
        re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-") for heading in headings(read(paper))
    }
    for link in links:
        assert link[1:] in anchors if link.startswith("#") else (paper.parent / link).is_file(), link


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: str(paper.relative_to(PROJECT_ROOT)))
def test_named_files_exist(paper: Path) -> None:
    """Every path in backticks that looks like a file of ours is one, from the root or the paper's own folder."""
    made_up = {"google_speech_service.py", "transcript.txt", "manifest.tsv", "report.json"}
    named = re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|md|proto|txt|bat|example|sh))`", prose(read(paper)))
    folders = ("api", "docs", "ml", "proto", "resources", "services", "tests")
    known = {path.name for folder in folders for path in (PROJECT_ROOT / folder).rglob("*.*")}
    known |= {path.name for path in PROJECT_ROOT.iterdir()}
    for name in named:
        short = name.rsplit("/", 1)[-1]
        if short not in made_up:
            found = (PROJECT_ROOT / name).is_file() or (paper.parent / name).is_file()
            assert found or ("/" not in name and short in known), name


@pytest.mark.parametrize("name", ["demo.bat", "test.bat", "generate_proto.bat"])
def test_windows_scripts_have_windows_line_ends(name: str) -> None:
    lines = (PROJECT_ROOT / name).read_bytes().split(b"\n")
    assert len(lines) > 4 and all(line.endswith(b"\r") for line in lines[:-1])
