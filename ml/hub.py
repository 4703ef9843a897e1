"""From MODEL_NAME to a folder: one on this machine, or the files of a repository on the Hugging Face hub."""

import re
from collections.abc import Sequence
from pathlib import Path

import httpx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ml.errors import ModelNotFoundError

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class HubError(Exception):
    """The files could not be had; `str(error)` says why, as part of a Russian sentence."""


def locate(
    name: str, revision: str | None, local_files_only: bool, wanted: Sequence[str], advice: str
) -> tuple[Path, str | None]:
    """The folder of the model `name` (a folder, or a hub name) and its commit on the hub; None for a folder.

    `wanted` are the glob patterns of the files to fetch. Raises ModelNotFoundError, whose message ends with `advice`.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder, None
    try:
        if not HUB_NAME.fullmatch(name):
            raise HubError("такой папки нет")
        snapshot = fetch(name, revision, local_files_only, wanted)
    except HubError as error:
        raise ModelNotFoundError(f"Модель «{name}» (MODEL_NAME) не найдена: {error}. {advice}") from error
    return snapshot, snapshot.name  # the hub's cache names a snapshot by its commit


def fetch(name: str, revision: str | None, local_files_only: bool, wanted: Sequence[str]) -> Path:
    """The folder with the files `wanted` of the hub repository `name` at `revision` (default: its main branch).

    They are kept in Hugging Face's own cache (HF_HOME), where its other programs find them too. Without a network,
    or with `local_files_only`, only that cache is looked into. Raises HubError.
    """
    try:
        return Path(
            snapshot_download(name, revision=revision, local_files_only=local_files_only, allow_patterns=list(wanted))
        )
    except HFValidationError as error:
        raise HubError("это и не папка, и не имя вида «автор/модель»") from error
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise HubError("на Hugging Face такой модели нет или нужен доступ") from error
    except RevisionNotFoundError as error:
        raise HubError(f"на Hugging Face у неё нет версии «{revision}» (MODEL_REVISION)") from error
    except (EntryNotFoundError, httpx.HTTPError, OSError) as error:
        reason = "загрузка запрещена (MODEL_LOCAL_FILES_ONLY)" if local_files_only else "загрузить её не удалось"
        raise HubError(f"в кеше Hugging Face её нет, а {reason}") from error
