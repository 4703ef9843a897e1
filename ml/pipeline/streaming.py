"""Transcribes a recording while it arrives."""

import contextvars
import threading
from concurrent.futures import Future
from contextlib import ExitStack
from types import TracebackType
from typing import BinaryIO

from ml.audio.decoder import Decoding
from ml.errors import EmptyAudioError
from ml.interfaces import RecognitionOptions
from ml.pipeline.builder import OnSegment
from ml.pipeline.pipeline import Pipeline
from ml.transcript import Transcript


class StreamTranscription:
    """Decodes, splits and recognises a recording while its pieces are fed; `finish` returns the transcript.

    The caller writes every piece to a file as well: what cannot be read forward, such as M4A with its index at the end,
    is decoded from there once it is complete. `feed` blocks while recognition is behind, so that memory stays bounded.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        spool: BinaryIO,
        pcm_sample_rate: int | None,
        cancelled: threading.Event,
        on_segment: OnSegment = lambda segment: None,
        options: RecognitionOptions = RecognitionOptions(),  # noqa: B008 (frozen)
        separate_channels: bool = False,
    ) -> None:
        """`spool` is the seekable file that holds the pieces; the rest is as for Pipeline.transcribe.

        `on_segment` is called on another thread.
        """
        self._pipeline = pipeline
        self._spool = spool
        self._pcm_sample_rate = pcm_sample_rate
        self._cancelled = cancelled
        self._on_segment = on_segment
        self._options = options
        self._separate_channels = separate_channels
        self._resources = ExitStack()
        self._decoding: Decoding | None = None
        self._transcript: Future[Transcript] = Future()

    def __enter__(self) -> "StreamTranscription":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def feed(self, piece: bytes) -> None:
        """Take the next bytes.

        Raises:
            SpeechError: the transcription has failed already; the rest is not needed.
        """
        if not piece:
            return
        if self._decoding is None:
            self._start()
        if self._decoding and not self._transcript.done():
            self._decoding.feed(piece)
        if self._transcript.done():
            self._transcript.result()

    @property
    def decoded_s(self) -> float:
        """Seconds of audio decoded so far."""
        return self._decoding.duration_s if self._decoding else 0.0

    def finish(self) -> Transcript:
        """End the input and return the transcript.

        Raises:
            SpeechError: see ml/errors.py.
        """
        if self._decoding is None:
            raise EmptyAudioError("Аудио пустое: в нём нет ни одного байта. Проверьте, что запись передаётся целиком.")
        self._decoding.end(self._spool)
        return self._transcript.result()

    def _start(self) -> None:
        self._decoding = self._resources.enter_context(
            self._pipeline.decoder.open_pipe(self._pcm_sample_rate, self._cancelled, self._separate_channels)
        )
        context = contextvars.copy_context()  # with the request id for the logs
        thread = threading.Thread(target=context.run, args=(self._work, self._decoding), name="stream-transcription")
        thread.start()
        self._resources.callback(thread.join)
        self._resources.callback(self._cancelled.set)  # where `finish` was not reached

    def _work(self, decoding: Decoding) -> None:
        try:
            self._transcript.set_result(self._pipeline.run(decoding, self._cancelled, self._on_segment, self._options))
        except BaseException as error:
            self._transcript.set_exception(error)
        finally:
            decoding.close()  # nothing reads it any more: `feed` must not block on it
