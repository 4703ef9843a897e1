"""The kinds of models that onnx-asr runs, and how to tell which one a folder holds."""

import json
from dataclasses import dataclass
from pathlib import Path

from ml.errors import ModelFormatError

RUSSIAN = frozenset({"ru"})
MAX_CHUNK_S = 30.0
GIGAAM_MAX_CHUNK_S = 24.0  # GigaAM's own package stops at 25 s


@dataclass(frozen=True)
class Kind:
    """A kind of model."""

    name: str  # onnx-asr's name of the type
    marker: str = ""  # glob of a file that only this kind has; empty: config.json must name the type
    max_chunk_s: float = MAX_CHUNK_S
    languages: frozenset[str] = frozenset()  # ISO 639-1; empty: unknown, any may be asked for
    takes_language: bool = False  # the model is told the language
    detects_language: bool = False  # where it is not told
    # Chunks are padded with silence to a multiple of this, so that those of similar length make a batch in which none
    # needs a mask: onnx-asr's masks are not exact at the end. 0: never padded, since the features are normalised over
    # the chunk, so that silence would change them.
    step_s: float = 1.0
    largest_batch: int | None = None


KINDS = (  # the first whose marker is found counts: end-to-end models, which punctuate, before the others
    Kind("gigaam-v3-e2e-ctc", "v3_e2e_ctc*.onnx", GIGAAM_MAX_CHUNK_S, RUSSIAN),
    Kind("gigaam-v3-e2e-rnnt", "v3_e2e_rnnt_encoder*.onnx", GIGAAM_MAX_CHUNK_S, RUSSIAN),
    Kind("gigaam-v3-ctc", "v3_ctc*.onnx", GIGAAM_MAX_CHUNK_S, RUSSIAN),
    Kind("gigaam-v3-rnnt", "v3_rnnt_encoder*.onnx", GIGAAM_MAX_CHUNK_S, RUSSIAN),
    Kind("gigaam-v2-ctc", "v2_ctc*.onnx", GIGAAM_MAX_CHUNK_S, RUSSIAN),
    Kind("gigaam-v2-rnnt", "v2_rnnt_encoder*.onnx", GIGAAM_MAX_CHUNK_S, RUSSIAN),
    Kind("gigaam-multilingual-ctc", "multilingual*_ctc*.onnx", GIGAAM_MAX_CHUNK_S),
    Kind("whisper-ort", "whisper-*_beamsearch*.onnx", takes_language=True, detects_language=True),
    Kind("whisper", "**/decoder_model_merged*.onnx", takes_language=True, detects_language=True),
    Kind("vosk", "*/tokens.txt", languages=RUSSIAN),
    Kind("nemo-conformer-ctc", step_s=0),
    Kind("nemo-conformer-rnnt", step_s=0),
    Kind("nemo-conformer-tdt", step_s=0),
    # A chunk that ends early goes on until the longest of its batch ends, its text with it: one at a time.
    Kind("nemo-conformer-aed", takes_language=True, step_s=0, largest_batch=1),
    Kind("t-one-ctc", "model*.onnx", languages=RUSSIAN),
)
BY_NAME = {kind.name: kind for kind in KINDS}


ALIASES = {  # onnx-asr's names of published models that are not names of kinds
    "gigaam-multilingual-large-ctc": "gigaam-multilingual-ctc",
    "nemo-fastconformer-ru-ctc": "nemo-conformer-ctc",
    "nemo-fastconformer-ru-rnnt": "nemo-conformer-rnnt",
    "nemo-parakeet-ctc-0.6b": "nemo-conformer-ctc",
    "nemo-parakeet-rnnt-0.6b": "nemo-conformer-rnnt",
    "nemo-parakeet-tdt-0.6b-v2": "nemo-conformer-tdt",
    "nemo-parakeet-tdt-0.6b-v3": "nemo-conformer-tdt",
    "nemo-canary-1b-v2": "nemo-conformer-aed",
    "whisper-base": "whisper-ort",
    "t-tech/t-one": "t-one-ctc",
    "alphacep/vosk-model-ru": "vosk",
    "alphacep/vosk-model-small-ru": "vosk",
}


def kind_of_name(name: str) -> Kind | None:
    """The kind of the published model `name`; None for a name that onnx-asr does not know."""
    return BY_NAME.get(ALIASES.get(name, name))


def kind_of_folder(folder: Path) -> Kind:
    """The kind that config.json names, else the one whose files are there. Raises ModelFormatError."""
    named = _named_kind(folder / "config.json")
    if named:
        return named
    for kind in KINDS:
        if kind.marker and any(folder.glob(kind.marker)):
            return kind
    raise ModelFormatError(
        "В папке модели (MODEL_NAME) нет модели ONNX, которую знает onnx-asr: нет файлов GigaAM, T-one, Vosk или "
        "Whisper, и config.json не называет её вид (model_type)."
    )


def _named_kind(config: Path) -> Kind | None:
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelFormatError("В папке модели (MODEL_NAME) повреждён config.json.") from error
    name = settings.get("model_type") if isinstance(settings, dict) else None
    return BY_NAME.get(name) if isinstance(name, str) else None
