"""The documented log lines of a request."""

import logging

from services.transcription.spool import AudioInfo

_RULE = "=" * 80
_MEBIBYTE = 1024 * 1024
HIDDEN = "(имя скрыто)"


def log_received(log: logging.Logger, description: AudioInfo, size_bytes: int, with_filename: bool) -> None:
    """Says which file came, how large and in which format."""
    name = description.printable_filename if with_filename else HIDDEN
    log.info(_RULE)
    log.info("📥 Получен запрос на транскрипцию файла: %s", name)
    log.info("   Размер файла: %.2f МБ", size_bytes / _MEBIBYTE)
    log.info("   Формат: %s", description.format_name)
    log.info(_RULE)


def log_finished(log: logging.Logger, processing_s: float, speed_factor: float, words: int, characters: int) -> None:
    """Says how long a transcription took and how much text came of it."""
    log.info("✅ Транскрипция успешно завершена!")
    log.info("   Общее время обработки: %.2f сек", processing_s)
    log.info("   Скорость: %.1fx от реального времени", speed_factor)
    log.info("   Слов: %d, Символов: %d", words, characters)


def log_failed(log: logging.Logger, code: str, message: str) -> None:
    """Says why a request got no transcript."""
    log.warning("❌ Ошибка транскрипции [%s]: %s", code, message)
