"""The documented log lines of a request."""

import logging

from services.transcription.request import AudioInfo

_RULE = "=" * 80
_MEBIBYTE = 1024 * 1024
HIDDEN = "(имя скрыто)"


def log_received(log: logging.Logger, audio_info: AudioInfo, size_bytes: int, with_filename: bool) -> None:
    """Log the name, size and format of a request's file."""
    name = audio_info.printable_filename if with_filename else HIDDEN
    log.info(_RULE)
    log.info("📥 Получен запрос на транскрипцию файла: %s", name)
    log.info("   Размер файла: %.2f МБ", size_bytes / _MEBIBYTE)
    log.info("   Формат: %s", audio_info.format_name)
    log.info(_RULE)


def log_finished(log: logging.Logger, processing_s: float, speed_factor: float, words: int, characters: int) -> None:
    """Log how long a transcription took and the length of its text."""
    log.info("✅ Транскрипция успешно завершена!")
    log.info("   Общее время обработки: %.2f сек", processing_s)
    log.info("   Скорость: %.1fx от реального времени", speed_factor)
    log.info("   Слов: %d, Символов: %d", words, characters)


def log_failed(log: logging.Logger, code: str, message: str) -> None:
    """Log why a request has no transcript."""
    log.warning("❌ Ошибка транскрипции [%s]: %s", code, message)
