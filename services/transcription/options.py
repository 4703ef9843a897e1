"""The options of a request: their check, and those that the model at hand can follow."""

import re
from dataclasses import dataclass

from ml.interfaces import Capabilities, RecognitionOptions
from services.transcription.errors import InvalidOptionsError

MIX, SEPARATE = 0, 1  # channel modes, as in the contract
DETECT_LANGUAGE = "auto"
MAX_PROMPT = 1000  # characters
_LANGUAGE = re.compile(f"[a-z]{{2}}|{DETECT_LANGUAGE}")


@dataclass(frozen=True)
class RequestOptions:
    """How to transcribe a request."""

    channel_mode: int = MIX
    word_times: bool = False
    language: str = ""  # ISO 639-1, or "auto"; empty for the model's default
    prompt: str = ""  # names and terms to expect

    @property
    def separate_channels(self) -> bool:
        """Whether each channel is transcribed by itself."""
        return self.channel_mode == SEPARATE

    def check(self) -> None:
        """Raise InvalidOptionsError for a value that the contract does not know."""
        if self.channel_mode not in (MIX, SEPARATE):
            raise InvalidOptionsError("Неизвестное значение options.channel_mode: укажите MIX или SEPARATE")
        if self.language and not _LANGUAGE.fullmatch(self.language):
            raise InvalidOptionsError(
                "Неверное значение options.language: укажите двухбуквенный код ISO 639-1, например ru, или auto"
            )
        if len(self.prompt) > MAX_PROMPT:
            raise InvalidOptionsError(
                f"Слишком длинное значение options.prompt: {len(self.prompt)} символов, а можно не больше {MAX_PROMPT}"
            )

    def for_model(self, capabilities: Capabilities) -> tuple[RecognitionOptions, tuple[str, ...]]:
        """The options that a model with these capabilities can follow, and a warning for each of the others."""
        language, prompt, warnings = self.language, self.prompt, []
        if language == DETECT_LANGUAGE and not capabilities.detects_language:
            warnings.append("Модель не определяет язык записи: значение auto не учтено.")
            language = ""
        elif language not in ("", DETECT_LANGUAGE, *capabilities.languages):
            warnings.append(f"Модель не знает языка {language}: указание языка не учтено.")
            language = ""
        if prompt and not capabilities.takes_prompt:
            warnings.append("Модель не принимает подсказку: options.prompt не учтено.")
            prompt = ""
        return RecognitionOptions(language=language, prompt=prompt, word_times=self.word_times), tuple(warnings)
