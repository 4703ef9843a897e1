"""Models in ONNX, as onnx-asr runs them: one answer to each chunk of a batch."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from math import ceil, exp
from typing import Any

import numpy as np

from ml.engine.request import Request
from ml.interfaces import SAMPLE_RATE, Capabilities, RecognitionOptions, Waveform
from ml.onnx.kinds import Kind
from ml.onnx.words import words_of
from ml.transcript import Completion

MIN_CHUNK_S = 0.25  # shorter chunks are padded with silence: over 10 ms, some models fail
AUTO = "auto"  # detect the language


class OnnxModel:
    """Answers batches of chunks, up to `workers` at a time. Implements ml.engine.micro_batch.BatchModel."""

    logger = logging.getLogger("OnnxModel")

    def __init__(
        self,
        adapter: Any,
        kind: Kind,
        languages: frozenset[str],
        language: str,
        batch_size: int,
        workers: int,
        spare_workers: int,
    ) -> None:
        """`adapter` is what onnx_asr.load_model returns; `language` is that of chunks whose options name none.

        `languages` are those that the model can be asked for.
        """
        self.kind = kind
        self.max_chunk_samples = int(kind.max_chunk_s * SAMPLE_RATE)
        self.batch_size = min(batch_size, kind.largest_batch or batch_size)
        self.workers = workers
        self.spare_workers = spare_workers
        self._adapter = adapter.with_timestamps()
        self._languages = languages
        self._language = language

    @property
    def capabilities(self) -> Capabilities:
        """What this model can do beyond turning speech into text."""
        return Capabilities(self._languages or Capabilities().languages, self.kind.detects_language)

    def recognise(self, requests: Sequence[Request]) -> list[Completion]:
        """See BatchModel. Chunks go through the model with those of the same padded length and language."""
        groups: defaultdict[tuple[int, str | None], list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[self._padded_samples(len(request.waveform)), self._language_of(request.options)].append(index)
        completions: dict[int, Completion] = {}
        for (samples, language), indices in groups.items():
            waveforms = [_pad(requests[index].waveform, samples) for index in indices]
            options = {"language": language} if language else {}
            results = self._adapter.recognize(waveforms, sample_rate=SAMPLE_RATE, **options)
            for index, result in zip(indices, results, strict=True):
                completions[index] = _completion(result, requests[index])
        return [completions[index] for index in range(len(requests))]

    def is_fatal(self, error: Exception) -> bool:
        """See BatchModel: errors of CUDA stick, except for a lack of memory."""
        return "CUDA failure" in str(error) and "out of memory" not in str(error)

    def _padded_samples(self, samples: int) -> int:
        """The length that a chunk of `samples` is padded to."""
        if not self.kind.step_s:
            return max(samples, int(MIN_CHUNK_S * SAMPLE_RATE))
        step = int(self.kind.step_s * SAMPLE_RATE)
        return min(self.max_chunk_samples, ceil(samples / step) * step)

    def _language_of(self, options: RecognitionOptions) -> str | None:
        """The language to ask the model for; None where it is not told one, or is to detect it."""
        if not self.kind.takes_language:
            return None
        known = self._languages | ({AUTO} if self.kind.detects_language else frozenset())
        language = options.language if options.language in known else self._language
        return None if language == AUTO else language


def _pad(waveform: Waveform, samples: int) -> Waveform:
    return np.pad(waveform, (0, samples - len(waveform)))


def _completion(result: Any, request: Request) -> Completion:
    """`result` is onnx_asr's TimestampedResult."""
    duration_s = len(request.waveform) / SAMPLE_RATE
    return Completion(
        text=result.text.strip(),
        confidence=exp(np.mean(result.logprobs)) if result.logprobs else None,
        words=words_of(result, duration_s) if request.options.word_times else (),
    )
