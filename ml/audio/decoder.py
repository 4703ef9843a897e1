"""Decodes an untrusted recording, block by block, into a 16 kHz mono waveform."""

import math
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

import numpy as np

from ml.audio.ffmpeg import SAMPLE_BYTES, decode_command
from ml.audio.limits import ChildLimits
from ml.audio.process import DecoderChild, Ending
from ml.audio.truncation import ends_early
from ml.audio.wav import plain_samples, read_blocks
from ml.errors import (
    AudioTooLongError,
    DecodingCancelledError,
    EmptyAudioError,
    TooManyChannelsError,
    UndecodableAudioError,
)
from ml.interfaces import SAMPLE_RATE, Waveform

BLOCK_BYTES = SAMPLE_RATE * SAMPLE_BYTES  # 32,000 bytes: one second
DAMAGED_WARNING = "Запись повреждена или обрезана: распознана та её часть, которую удалось прочитать."
MAX_SEPARATE_CHANNELS = 8
_AU_HEADER = struct.Struct(">4s5I")  # magic, offset of the samples, their size, encoding, sample rate, channels
_FULL_SCALE = 32768.0  # s16 to [-1, 1)
_STOPPED_BY_SIGNAL = 255  # ffmpeg's exit code when SIGTERM or SIGINT made it stop early and tidily


@dataclass(frozen=True)
class AudioDecoder:
    """How recordings are decoded; one serves any number of threads.

    ffmpeg: the program, from `find_ffmpeg`
    max_duration_s: a longer recording is refused
    timeout_s: time a recording's decoder may make us wait, all waits together, and processor time it may use
    """

    ffmpeg: Path
    max_duration_s: float
    timeout_s: float

    @contextmanager
    def open(
        self,
        source: IO[bytes],
        pcm_sample_rate: int | None = None,
        cancelled: threading.Event | None = None,
        separate_channels: bool = False,
    ) -> Iterator["Decoding | PlainDecoding"]:
        """Start decoding the whole of `source` and yield the running `Decoding`; its process ends with the block.

        16 kHz mono 16-bit WAV or PCM needs no decoding: it is read in this process, and no other is started.

        `source` is a seekable file with a descriptor, at any position; leave it alone until the block ends. With
        `pcm_sample_rate` (Hz) it is raw 16-bit little-endian mono PCM. Setting `cancelled` kills the decoder.
        With `separate_channels` the channels are not mixed: the blocks are (C, n).

        Raises: EmptyAudioError, InvalidSampleRateError, DecoderUnavailableError.
        """
        command = decode_command(self.ffmpeg, self.max_duration_s, pcm_sample_rate, separate_channels)
        limits = ChildLimits(cpu_s=math.ceil(self.timeout_s))
        cancelled = cancelled or threading.Event()
        with _rewound(source) as cut_short:
            if samples := plain_samples(source.fileno(), pcm_sample_rate):
                blocks = read_blocks(source.fileno(), samples, BLOCK_BYTES, cancelled)
                is_cut_short = cut_short and pcm_sample_rate is None
                yield PlainDecoding(blocks, self.max_duration_s, is_cut_short, separate_channels)
                return
            os.lseek(source.fileno(), 0, os.SEEK_SET)
            child = DecoderChild(command, source, self.timeout_s, limits, cancelled)
            try:
                yield Decoding(child, self, cut_short and pcm_sample_rate is None, separate_channels)
            finally:
                child.close()

    @contextmanager
    def open_pipe(
        self,
        pcm_sample_rate: int | None = None,
        cancelled: threading.Event | None = None,
        separate_channels: bool = False,
    ) -> Iterator["Decoding"]:
        """Start decoding a recording that is still to come: `feed` the `Decoding` from another thread, then `end` it.

        Raises: InvalidSampleRateError, DecoderUnavailableError.
        """
        command = decode_command(self.ffmpeg, self.max_duration_s, pcm_sample_rate, separate_channels)
        limits = ChildLimits(cpu_s=math.ceil(self.timeout_s))
        child = DecoderChild(command, None, self.timeout_s, limits, cancelled or threading.Event())
        try:
            yield Decoding(child, self, cut_short=False, separate_channels=separate_channels)
        finally:
            child.close()

    def decode_all(
        self, source: IO[bytes], pcm_sample_rate: int | None = None, cancelled: threading.Event | None = None
    ) -> Waveform:
        """Return the whole waveform (N,) at once: 3.8 MB a minute. Raises as `open` and `Decoding` do."""
        with self.open(source, pcm_sample_rate, cancelled) as decoding:
            return np.concatenate(list(decoding))


class Decoding:
    """A recording being decoded: iterate over it, once, for float32 blocks (n,) in [-1, 1), a second each at most.

    With separate channels the blocks are (C, n). Iterating raises UndecodableAudioError, AudioTooLongError,
    TooManyChannelsError or DecodingCancelledError.
    """

    def __init__(
        self, child: DecoderChild, decoder: AudioDecoder, cut_short: bool, separate_channels: bool = False
    ) -> None:
        self._child = child
        self._decoder = decoder
        self._cut_short = cut_short
        self._separate_channels = separate_channels
        self._n_samples = 0
        self._warnings: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        """Length of the sound yielded so far, in seconds."""
        return self._n_samples / SAMPLE_RATE

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the sender should know about a recording which could be read in part; complete after the last block."""
        return self._warnings

    def feed(self, data: bytes) -> bool:
        """Hand over the next bytes of a recording opened by `open_pipe`; False once the decoder reads no more."""
        return self._child.feed(data)

    def end(self, cut_short: bool) -> None:
        """Say that all of it was fed, and whether it breaks off before its own end."""
        self._cut_short = cut_short
        self._child.end_input()

    def close(self) -> None:
        """End the decoder if it still runs. May be called from any thread, and again."""
        self._child.close()

    @property
    def waited_s(self) -> float:
        """Time spent waiting for the decoder so far, in seconds: what the time limit bounds."""
        return self._child.waited_s

    @property
    def pid(self) -> int:
        """Process id of the decoder, for logs and tests."""
        return self._child.pid

    def __iter__(self) -> Iterator[Waveform]:
        for block in self._separate_blocks() if self._separate_channels else self._mono_blocks():
            block /= _FULL_SCALE
            self._n_samples += block.shape[-1]
            if self.duration_s > self._decoder.max_duration_s:
                self._child.close()
                raise _too_long(self._decoder.max_duration_s)
            yield block
        self._judge(self._child.finish())

    def _mono_blocks(self) -> Iterator[Waveform]:
        while data := self._child.read(BLOCK_BYTES):
            yield np.frombuffer(data, "<i2", count=len(data) // SAMPLE_BYTES).astype(np.float32)

    def _separate_blocks(self) -> Iterator[Waveform]:
        """Samples (C, n) of the AU stream, interleaved and big-endian."""
        header = self._child.read(_AU_HEADER.size)
        if len(header) < _AU_HEADER.size:
            return
        _, offset, _, _, _, channels = _AU_HEADER.unpack(header)
        if channels > MAX_SEPARATE_CHANNELS:
            self._child.close()
            raise TooManyChannelsError(
                f"В записи {channels} каналов, а по отдельности распознаётся не больше {MAX_SEPARATE_CHANNELS}: "
                "пришлите её без channel_mode=SEPARATE или разделите на части."
            )
        self._child.read(offset - _AU_HEADER.size)  # an annotation
        while data := self._child.read(BLOCK_BYTES * channels):
            n_samples = len(data) // (SAMPLE_BYTES * channels)
            interleaved = np.frombuffer(data, ">i2", count=n_samples * channels).reshape(n_samples, channels)
            yield np.ascontiguousarray(interleaved.T, np.float32)  # (C, n)

    def _judge(self, ending: Ending) -> None:
        """Tell success from failure by what came out: ffmpeg's exit code says little about either."""
        if ending.cancelled:
            raise DecodingCancelledError("Чтение записи отменено.")
        if ending.timed_out:
            raise UndecodableAudioError(
                f"Чтение записи не уложилось в {self._decoder.timeout_s:g} с (настройка AUDIO_DECODE_TIMEOUT_S). "
                "Повторите попытку или пересохраните запись, например, в WAV или MP3."
            )
        if _broke_down(ending.exit_code):
            raise UndecodableAudioError(
                "Декодер аварийно остановился на этой записи. Пересохраните её, например, в WAV или MP3."
            )
        if self._n_samples == 0:
            _refuse(ending)
        if ending.complained or ending.exit_code != 0 or self._cut_short:
            self._warnings = (DAMAGED_WARNING,)


class PlainDecoding:
    """A recording that needs no decoding; to be used as a Decoding is."""

    def __init__(
        self, blocks: Iterator[Waveform], max_duration_s: float, cut_short: bool, separate_channels: bool = False
    ) -> None:
        self._blocks = blocks
        self._max_duration_s = max_duration_s
        self._separate_channels = separate_channels
        self._n_samples = 0
        self.warnings: tuple[str, ...] = (DAMAGED_WARNING,) if cut_short else ()

    @property
    def duration_s(self) -> float:
        """Length of the sound yielded so far, in seconds."""
        return self._n_samples / SAMPLE_RATE

    def __iter__(self) -> Iterator[Waveform]:
        for block in self._blocks:
            self._n_samples += len(block)
            if self.duration_s > self._max_duration_s:
                raise _too_long(self._max_duration_s)
            yield block[np.newaxis] if self._separate_channels else block


def _too_long(max_duration_s: float) -> AudioTooLongError:
    return AudioTooLongError(
        f"Запись длиннее {max_duration_s:g} с, а больше не позволяет настройка "
        "AUDIO_MAX_DURATION_S. Разделите запись на части."
    )


@contextmanager
def _rewound(source: IO[bytes]) -> Iterator[bool]:
    """Put the descriptor, whose position a child process shares, at 0 and back; yield whether the file is cut short.

    Raises: EmptyAudioError.
    """
    descriptor = source.fileno()
    source.flush()
    if os.fstat(descriptor).st_size == 0:
        raise EmptyAudioError("Аудио пустое: в нём нет ни одного байта. Проверьте, что запись передаётся целиком.")
    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        cut_short = ends_early(descriptor)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield cut_short
    finally:
        os.lseek(descriptor, position, os.SEEK_SET)


def _broke_down(exit_code: int) -> bool:
    """Return whether the process was ended by a signal (or, on Windows, by an exception) that we did not send."""
    return exit_code < 0 or exit_code == _STOPPED_BY_SIGNAL or exit_code >= 0xC000_0000


def _refuse(ending: Ending) -> NoReturn:
    if ending.no_track:
        raise UndecodableAudioError("В файле нет звуковой дорожки. Пришлите запись, в которой есть звук.")
    raise UndecodableAudioError(
        "Не удалось прочитать звук: файл повреждён, пуст или в другом формате. "
        "Пришлите запись в MP3, WAV, M4A, FLAC, OGG или AAC."
    )
