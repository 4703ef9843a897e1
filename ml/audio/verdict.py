"""Judge how a decoding went: errors where nothing came of it, warnings where something was lost."""

from dataclasses import dataclass, field

from ml.audio.containers import refused_name
from ml.audio.ffmpeg import MAX_TRACKS
from ml.audio.packets import Track
from ml.audio.parts import MAX_PARTS
from ml.audio.process import Ending
from ml.audio.truncation import Statement
from ml.errors import (
    AudioError,
    AudioTooLongError,
    DecodingCancelledError,
    EmptyAudioError,
    TooManyChannelsError,
    UndecodableAudioError,
)

DAMAGED_WARNING = "Запись повреждена или обрезана: распознана та её часть, которую удалось прочитать."
ANTIPHASE_WARNING = "Каналы записаны в противофазе: при сведении один из них перевёрнут, чтобы звук не пропал."
TRACKS_WARNING = f"В записи больше {MAX_TRACKS} звуковых дорожек: распознаны первые {MAX_TRACKS}, остальные пропущены."
CODEC_WARNING = "Часть звуковых дорожек сжата неподдерживаемым кодеком и пропущена: распознаны остальные."
FIRST_TRACK_WARNING = "Распознана только первая звуковая дорожка: вместе они не уместились в память декодера."
LATE_WARNING = "Дорожки записи расходятся во времени: часть звука пропущена."
PARTS_WARNING = (
    f"В файле подряд больше {MAX_PARTS} записей: последние могли не прочитаться. Отправьте их отдельными файлами."
)
LEFTOVER_WARNING = "После конца записи в файле есть ещё данные: прочитать их не удалось. Проверьте, что файл цел."
FORMATS = "MP3, WAV, M4A, MP4, FLAC, OGG, Opus, AAC, WebM, AIFF, CAF, AMR или WMA"
MAX_CHANNELS = 8  # recognised apart
_NOTICEABLE_S = 0.1
_NEGLIGIBLE_S = 0.03  # less than a frame of any codec
_STOPPED_BY_SIGNAL = 255  # ffmpeg's exit code when SIGTERM or SIGINT made it stop early and tidily


@dataclass
class Outcome:
    """What came of one run of the decoder over one recording."""

    ending: Ending | None = None  # None where no process was needed
    duration_s: float = 0.0
    gap_s: float = 0.0
    warnings: list[str] = field(default_factory=list)


@dataclass
class Verdict:
    """The warnings about a file, from the outcomes of all recordings in it."""

    _error: AudioError | None = None  # the first recording of which nothing came
    _has_sound: bool = False
    _is_damaged: bool = False
    _lost_s: float = 0.0
    _others: dict[str, None] = field(default_factory=dict)  # in order, each once

    def add(self, outcome: Outcome, stated: Statement, head: bytes) -> None:
        """Take the outcome of the next recording, whose first bytes are `head`."""
        self._others |= dict.fromkeys(outcome.warnings)
        if outcome.duration_s == 0:
            self._error = self._error or unreadable(outcome.ending, head)
            return
        self._has_sound = True
        if stated.has_leftover:
            self.warn(LEFTOVER_WARNING)
        if stated.duration_s:
            lost_s = stated.duration_s - outcome.duration_s
            is_damaged = lost_s > _NEGLIGIBLE_S
        else:
            ending, expected = outcome.ending, 1 if stated.is_padded else 0
            has_failed = ending is not None and (ending.complaints > expected or ending.exit_code != 0)
            lost_s = outcome.duration_s * stated.missing_share or (outcome.gap_s if has_failed else 0.0)
            is_damaged = has_failed or stated.is_cut
        if is_damaged:
            self._is_damaged = True
            self._lost_s += max(0.0, lost_s)

    def warn(self, warning: str) -> None:
        """Add another warning."""
        self._others[warning] = None

    def conclude(self) -> tuple[str, ...]:
        """Return the warnings. Raises UndecodableAudioError where nothing came of any recording."""
        if not self._has_sound:
            raise self._error or unreadable(None, b"")
        if self._error:
            self._is_damaged = True
        damage = []
        if self._is_damaged:
            amount = f" Не хватает примерно {self._lost_s:.1f} с.".replace(".", ",", 1)
            damage = [DAMAGED_WARNING + (amount if self._lost_s > _NOTICEABLE_S else "")]
        return (*damage, *self._others)


def check(ending: Ending, timeout_s: float) -> None:
    """Raise DecodingCancelledError or UndecodableAudioError if the process did not end by itself."""
    if ending.cancelled:
        raise cancelled()
    if ending.timed_out:
        raise UndecodableAudioError(
            f"Чтение записи не уложилось в {timeout_s:g} с (настройка AUDIO_DECODE_TIMEOUT_S). "
            "Повторите попытку или пересохраните запись, например, в WAV или MP3."
        )
    if ending.exit_code < 0 or ending.exit_code == _STOPPED_BY_SIGNAL or ending.exit_code >= 0xC000_0000:
        raise broken_down()


def empty() -> EmptyAudioError:
    """Return the error for a file without a byte."""
    return EmptyAudioError("Аудио пустое: в нём нет ни одного байта. Проверьте, что запись передаётся целиком.")


def cancelled() -> DecodingCancelledError:
    """Return the error for a decoding that is no longer wanted."""
    return DecodingCancelledError("Чтение записи отменено.")


def broken_down() -> UndecodableAudioError:
    """Return the error for a decoder that was ended by a signal (on Windows, by an exception)."""
    return UndecodableAudioError(
        "Декодер аварийно остановился на этой записи. Пересохраните её, например, в WAV или MP3."
    )


def too_long(max_duration_s: float) -> AudioTooLongError:
    """Return the error for a recording over the limit."""
    return AudioTooLongError(
        f"Запись длиннее {max_duration_s:g} с, а больше не позволяет настройка "
        "AUDIO_MAX_DURATION_S. Разделите запись на части."
    )


def too_many_channels(n_channels: int) -> TooManyChannelsError:
    """Return the error for a recording with more channels than can be recognised apart."""
    return TooManyChannelsError(
        f"В записи {n_channels} каналов, а по отдельности распознаётся не больше {MAX_CHANNELS}. "
        "Пришлите её в режиме MIX или разделите каналы на файлы."
    )


def unreadable(ending: Ending | None, head: bytes) -> UndecodableAudioError:
    """Return the error for a recording that begins with `head` and gave no sound."""
    if name := refused_name(head):
        return UndecodableAudioError(f"Формат {name} не поддерживается. Пришлите запись в {FORMATS}.")
    if ending and ending.bad_streams:
        return UndecodableAudioError(
            f"Звук в записи сжат кодеком, который не поддерживается, или повреждён. Пришлите её в {FORMATS}."
        )
    if ending and ending.no_track:
        return UndecodableAudioError("В файле нет звуковой дорожки. Пришлите запись, в которой есть звук.")
    return UndecodableAudioError(
        f"Не удалось прочитать звук: файл повреждён, пуст или в другом формате. Пришлите запись в {FORMATS}."
    )


def language_warning(tracks: list[Track], kept: list[int]) -> str:
    """Return the warning that the tracks in other languages were left out."""
    others = sorted({track.language for index, track in enumerate(tracks) if index not in kept})
    return f"Распознана дорожка на языке {tracks[kept[0]].language}; дорожки на других пропущены: {', '.join(others)}."
