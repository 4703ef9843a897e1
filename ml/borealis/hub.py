"""Fetching a checkpoint's files from the Hugging Face hub, or finding them in its local cache."""

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

from ml.borealis.prompt import TOKENIZER_FILES

# Data only: the repository's Python files are never fetched.
WANTED_FILES = [
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "pytorch_model.bin",
    "*.safetensors",
    "*.safetensors.index.json",
    *TOKENIZER_FILES,
]


class HubError(Exception):
    """The files could not be had; `str(error)` says why, as part of a Russian sentence."""


def fetch(name: str, revision: str | None, local_files_only: bool) -> Path:
    """The folder with the files of the hub repository `name` at `revision` (default: its main branch).

    They are kept in Hugging Face's own cache (HF_HOME), where its other programs find them too. Without a network,
    or with `local_files_only`, only that cache is looked into. Raises HubError.
    """
    try:
        return Path(
            snapshot_download(name, revision=revision, local_files_only=local_files_only, allow_patterns=WANTED_FILES)
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
