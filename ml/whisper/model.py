"""OpenAI's Whisper in CTranslate2's format: one answer to each chunk of a batch."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, exp
from typing import Any

import numpy as np
from ctranslate2 import Device, StorageView
from faster_whisper import WhisperModel as FasterWhisper
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_ctranslate2_storage

from ml.engine.request import Request
from ml.interfaces import SAMPLE_RATE, Capabilities, RecognitionOptions, Waveform
from ml.transcript import Completion, FinishReason
from ml.whisper.no_speech import is_no_speech
from ml.whisper.words import words_of

# The encoder's attention costs the square of its window, and so do the decoder's steps with every token. Whisper base
# on 1000 s in chunks of at most 28, 24, 20 and 16 s: 56, 51, 47 and 40 s of processor time, WER 20.3, 20.3, 21.0 and
# 21.0 %, with a margin of 1 s.
MAX_CHUNK_S = 24
FRAMES_PER_S = 100  # of the log-mel spectrogram; the encoder halves them
# The encoder is given the chunk and at least MARGIN_S of silence, in steps of STEP_S, rather than always 30 s. Whisper
# base on 52 sentences, one by one: WER 21.2 % in 12 s of processor time; a margin of 1 s in steps of 3 s: 21.8 % in
# 10 s; always 30 s: 22.4 % in 66 s. On 1800 s in long recordings, in four orders of these sentences: 19.8 and, with a
# margin of 1 s, 20.0 %. With zeros in place of silence, as faster-whisper pads, a margin of 1 s does not do: WER 39 %,
# for texts that go on where the speech has ended.
MARGIN_S = 2
STEP_S = 4  # steps, so that an answer does not depend on the longest chunk of the batch
MAX_TOKENS = 448  # positions of the decoder, prompt included
SAMPLING_TEMPERATURE = 0.5
# An answer whose tokens are less probable in the mean is decoded again, by beam search. Whisper base on 14 long
# recordings of 600 s, 403 chunks: 9 % of them are, WER 20.3 instead of 20.6 %; all of them decoded so, 19.0 %, but in
# a quarter more time.
SURE_PROBABILITY = 0.76
BEAMS = 5
AUTO = "auto"  # detect the language

Features = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class _Group:
    """What the chunks that go through the model together have in common."""

    frames: int  # of the padded spectrogram
    sampled: bool
    prompt: str
    word_times: bool


class WhisperModel:
    """Answers batches of chunks, up to `workers` at a time. Implements ml.engine.micro_batch.BatchModel."""

    max_chunk_samples = MAX_CHUNK_S * SAMPLE_RATE
    logger = logging.getLogger("WhisperModel")

    def __init__(self, network: FasterWhisper, language: str, batch_size: int, spare_workers: int) -> None:
        """`language` is that of chunks whose options name none: one of `network.supported_languages`, or AUTO.

        `spare_workers` are those of the network's workers that BatchModel calls so.
        """
        self.batch_size = batch_size
        self.spare_workers = spare_workers
        self.workers = int(network.model.num_workers) - spare_workers
        self._network = network
        self._language = language
        is_multilingual = network.model.is_multilingual
        self.capabilities = Capabilities(frozenset(network.supported_languages), is_multilingual, takes_prompt=True)
        self._tokenizers = {
            code: Tokenizer(network.hf_tokenizer, is_multilingual, task="transcribe", language=code)
            for code in network.supported_languages
        }

    def recognise(self, requests: Sequence[Request]) -> list[Completion]:
        """See BatchModel. The answer to one chunk does not depend on the others."""
        groups: defaultdict[_Group, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            options = request.options
            frames = padded_frames(len(request.waveform))
            groups[_Group(frames, options.sampled, options.prompt, options.word_times)].append(index)
        completions: dict[int, Completion] = {}
        for group, indices in groups.items():
            waveforms = [requests[index].waveform for index in indices]
            languages = [self._language_of(requests[index].options) for index in indices]
            completions.update(zip(indices, self._transcribe(waveforms, languages, group), strict=True))
        return [completions[index] for index in range(len(requests))]

    def is_fatal(self, error: Exception) -> bool:
        """See BatchModel: errors of CUDA stick, except for a lack of memory."""
        return self._network.model.device == "cuda" and "CUDA" in str(error) and "out of memory" not in str(error)

    def _transcribe(self, waveforms: list[Waveform], languages: list[str], group: _Group) -> list[Completion]:
        features = np.stack([self._features(waveform, group.frames) for waveform in waveforms])  # (B, mels, T)
        encoded = self._network.model.encode(get_ctranslate2_storage(features))  # (B, T / 2, D)
        tokenizers = [self._tokenizers[code] for code in self._detect(languages, encoded)]
        prompts = [self._prompt(tokenizer, group.prompt) for tokenizer in tokenizers]
        results = self._generate(encoded, prompts, group.sampled)
        durations_s = [len(waveform) / SAMPLE_RATE for waveform in waveforms]
        completions = [_completion(*row) for row in zip(results, tokenizers, prompts, durations_s, strict=True)]
        unsure = [] if group.sampled else [row for row, answer in enumerate(completions) if _is_unsure(answer)]
        if unsure:
            found = self._generate(_rows(encoded, unsure), [prompts[row] for row in unsure], beams=BEAMS)
            for row, result in zip(unsure, found, strict=True):
                results[row] = result
                completions[row] = _completion(result, tokenizers[row], prompts[row], durations_s[row])
        if not group.word_times:
            return completions
        tokens = [result.sequences_ids[0] for result in results]
        return self._add_words(completions, tokens, tokenizers, encoded, [len(waveform) for waveform in waveforms])

    def _generate(self, encoded: Any, prompts: list[list[int]], sampled: bool = False, beams: int = 1) -> list[Any]:
        """Return CTranslate2's result for each row of `encoded` (B, T / 2, D)."""
        return list(
            self._network.model.generate(
                encoded,
                prompts,
                beam_size=beams,
                max_length=MAX_TOKENS,
                sampling_topk=0 if sampled else 1,  # 0: among all tokens
                sampling_temperature=SAMPLING_TEMPERATURE if sampled else 1.0,
                return_scores=True,
                return_no_speech_prob=True,
            )
        )

    def _add_words(
        self,
        completions: list[Completion],
        tokens: list[list[int]],
        tokenizers: list[Tokenizer],
        encoded: Any,
        samples: list[int],
    ) -> list[Completion]:
        """Align the `tokens` of each chunk with its audio by the decoder's attention; one pass for each language."""
        frames = [ceil(count * FRAMES_PER_S / SAMPLE_RATE) for count in samples]
        alignments = {
            tokenizer.language_code: self._network.find_alignment(tokenizer, tokens, encoded, frames)
            for tokenizer in set(tokenizers)
        }
        with_words = []
        for row, (completion, tokenizer) in enumerate(zip(completions, tokenizers, strict=True)):
            words = words_of(alignments[tokenizer.language_code][row]) if completion.text else ()
            with_words.append(replace(completion, words=words))
        return with_words

    def _features(self, waveform: Waveform, frames: int) -> Features:
        """The log-mel spectrogram (mels, frames) of the waveform and silence after it, as in OpenAI's own code."""
        padded = np.zeros(frames * SAMPLE_RATE // FRAMES_PER_S, np.float32)
        padded[: len(waveform)] = waveform
        spectrogram: Features = self._network.feature_extractor(padded)[:, :frames]
        return spectrogram

    def _language_of(self, options: RecognitionOptions) -> str:
        """The language asked for, if the model knows it, else the default."""
        return options.language if options.language in (AUTO, *self._tokenizers) else self._language

    def _detect(self, languages: list[str], encoded: Any) -> list[str]:
        """`languages`, the most probable one of the chunk in place of AUTO."""
        if AUTO not in languages:
            return languages
        if len(self._tokenizers) == 1:
            return [*self._tokenizers] * len(languages)
        rankings = self._network.model.detect_language(encoded)  # of each chunk: [("<|ru|>", 0.98), …]
        return [
            ranking[0][0].strip("<|>") if language == AUTO else language
            for language, ranking in zip(languages, rankings, strict=True)
        ]

    def _prompt(self, tokenizer: Tokenizer, expected: str) -> list[int]:
        """Tokens before the answer: what to expect, language and task, no time marks."""
        tokens = tokenizer.encode(" " + expected.strip()) if expected.strip() else []
        return list(self._network.get_prompt(tokenizer, tokens, without_timestamps=True))


def padded_frames(samples: int) -> int:
    """Frames of the spectrogram that the encoder is given for a chunk of `samples`."""
    steps = ceil((samples / SAMPLE_RATE + MARGIN_S) / STEP_S)
    return STEP_S * steps * FRAMES_PER_S


def _is_unsure(completion: Completion) -> bool:
    return completion.confidence is not None and completion.confidence < SURE_PROBABILITY


def _rows(encoded: StorageView, rows: list[int]) -> StorageView:
    """Return those rows of the encoder's output (B, T / 2, D), in the host's memory."""
    return get_ctranslate2_storage(np.asarray(encoded.to_device(Device.cpu))[rows])


def _completion(result: Any, tokenizer: Tokenizer, prompt: list[int], duration_s: float) -> Completion:
    tokens = result.sequences_ids[0]
    probability = exp(result.scores[0] * len(tokens) / (len(tokens) + 1))  # mean, the end-of-text token included
    text = tokenizer.decode(tokens).strip()
    if is_no_speech(text, result.no_speech_prob, probability, duration_s):
        text = ""
    limit = min(MAX_TOKENS // 2, MAX_TOKENS - len(prompt))  # CTranslate2's, of tokens after the prompt
    reason = FinishReason.LENGTH if len(tokens) >= limit else FinishReason.STOP
    return Completion(text, reason, confidence=probability if text else None)
