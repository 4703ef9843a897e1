"""The Borealis network with its tokenizer, prompt and features: waveforms in, texts out."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, VoxtralForConditionalGeneration

from ml.borealis.config import GenerationOptions
from ml.borealis.decoder import SlotDecoder
from ml.borealis.encoder import EncoderPass, make_encoder
from ml.borealis.features import LogMel, pad_chunks
from ml.borealis.generation import read_decoding_defaults
from ml.borealis.linear import embedding_of, memory_of
from ml.borealis.network import load_network
from ml.borealis.prompt import Prompt, build_prompt, load_tokenizer
from ml.borealis.workers import CpuWorkers
from ml.errors import ModelFormatError
from ml.heap import MEBIBYTE
from ml.interfaces import Waveform

# Chunks in one pass of the encoder: a CPU's caches hold one, a GPU's activations stay below 1 GiB.
ENCODER_BATCH = {"cpu": 1, "cuda": 16}

DIVIDED = "\ufffd"  # decoded from a token with a part of a character's bytes

_MEMORY = "Память модели: веса %.0f МБ, ключи и значения на %d фрагментов %.0f МБ"

logger = logging.getLogger("BorealisModel")


class BorealisModel:
    """A loaded checkpoint on one device; not for use by several threads at once."""

    def __init__(
        self,
        network: VoxtralForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Prompt,
        options: GenerationOptions,
        eos_ids: Collection[int],
    ) -> None:
        """`options` have their repetition penalty; any of `eos_ids` ends a text."""
        self.network = network
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.options = options
        self.device: torch.device = network.device
        self.dtype: torch.dtype = network.dtype
        self.eos_ids = frozenset(eos_ids)
        self.max_new_tokens = options.max_new_tokens
        self.log_mel = LogMel(self.device)
        self._on_progress: Callable[[], None] = lambda: None
        self._workers = CpuWorkers()
        self.encoder = make_encoder(network, self._workers)
        network.generation_config = _generation_config(options, self.eos_ids, tokenizer.pad_token_id)
        self._prefix_ids = torch.tensor([prompt.prefix_ids], device=self.device)  # (1, P)
        self._pieces: dict[int, str] = {}
        self._suffix_ids = torch.tensor([prompt.suffix_ids], device=self.device)  # (1, S)

    @classmethod
    def load(
        cls,
        checkpoint_path: Path,
        device: torch.device,
        dtype: torch.dtype,
        options: GenerationOptions = GenerationOptions(),  # noqa: B008 (frozen)
    ) -> "BorealisModel":
        """Load the stock Voxtral folder `checkpoint_path` (see prepare_checkpoint).

        Raises ModelFormatError if its files are damaged or of another model.
        """
        tokenizer = load_tokenizer(checkpoint_path)
        prompt = build_prompt(tokenizer)
        network = load_network(checkpoint_path, dtype)
        if len(tokenizer) > network.config.text_config.vocab_size:
            raise ModelFormatError("Токенизатор знает больше токенов, чем модель: это файлы разных моделей.")
        defaults = read_decoding_defaults(checkpoint_path, tokenizer)
        if options.repetition_penalty is None:
            options = replace(options, repetition_penalty=defaults.repetition_penalty)
        if dtype != torch.int8:  # which stays on the CPU
            network = network.to(device)
        return cls(network, tokenizer, prompt, options, defaults.eos_ids)

    @property
    def encoder_workers(self) -> int:
        """Chunks that the encoder computes in parallel."""
        return torch.get_num_threads() if self.encoder else 1

    @property
    def do_sample(self) -> bool:
        """Whether texts are sampled rather than decoded greedily."""
        return self.options.do_sample

    def watch_progress(self, on_progress: Callable[[], None]) -> None:
        """Have `on_progress` called after each layer of the encoder and of a prefill, on any thread."""
        self._on_progress = on_progress
        if self.encoder is not None:
            self.encoder.on_progress = on_progress
        else:
            for layer in self.network.model.audio_tower.layers:
                layer.register_forward_hook(lambda *_: on_progress())

    def features(self, waveforms: Sequence[Waveform]) -> torch.Tensor:
        """Log-mel features (B, 128, 3000) float32 of chunks of any length up to 30 s."""
        features: torch.Tensor = self.log_mel(pad_chunks(waveforms))
        return features

    @torch.inference_mode()
    def encode(self, features: torch.Tensor) -> torch.Tensor:
        """Audio embeddings (B, 375, H) of `features` (B, 128, 3000), a few items at a time."""
        if self.encoder is not None:
            embeddings: torch.Tensor = self.encoder(features)
            return embeddings
        batches = torch.split(features, ENCODER_BATCH[self.device.type])
        found = [self.network.get_audio_features(batch).pooler_output for batch in batches]  # (b * 375, H)
        return torch.cat(found).reshape(len(features), -1, found[0].shape[-1])  # (B, 375, H)

    @property
    def pauses(self) -> bool:
        """Whether an encoder batch can pause for another."""
        return self.encoder is not None

    def start_encoding(self, waveforms: torch.Tensor) -> EncoderPass:
        """Begin to encode `waveforms` (B, N <= 480,000), where `pauses`."""
        assert self.encoder is not None
        return EncoderPass(self.encoder, self.log_mel(waveforms))

    def audio_embeddings(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Audio embeddings (B, 375, H) of `waveforms` (B, N <= 480,000)."""
        return self.encode(self.log_mel(waveforms))

    def make_decoder(self, slots: int) -> SlotDecoder:
        """A decoder of `slots` rows."""
        decoder = self._make_decoder(slots, self.options)
        logger.info(_MEMORY, memory_of(self.network) / MEBIBYTE, slots, decoder.cache_bytes / MEBIBYTE)
        return decoder

    @torch.inference_mode()
    def attend(self, waveform: Waveform, text: str) -> tuple[list[str], torch.Tensor]:
        """The pieces of `text` and every head's attention (layers, heads, n + 1, 375) to `waveform` over its n tokens.

        See SlotDecoder.audio_attention. The text need not be what the model would recognise.
        """
        tokens = self.tokenizer.encode(text, add_special_tokens=False)
        decoder = self._make_decoder(1, replace(self.options, max_new_tokens=len(tokens)))
        heads = [(layer, head) for layer in range(len(decoder.layers)) for head in range(decoder.heads)]
        decoder.prefill([0], self.encode(self.features([waveform])), [None])
        attention = decoder.audio_attention([0], [tokens], heads)[0]
        return self.pieces(tokens), attention.unflatten(0, (len(decoder.layers), -1))

    def _make_decoder(self, slots: int, options: GenerationOptions) -> SlotDecoder:
        audio = self.network.config.audio_config  # 4 frames of hidden_size side by side are intermediate_size wide
        audio_length = audio.max_source_positions * audio.hidden_size // audio.intermediate_size  # 375
        decoder = SlotDecoder(self.network, *self.prompt_embeddings(), audio_length, options, slots, self._workers)
        decoder.on_progress = self._on_progress
        return decoder

    @torch.inference_mode()
    def prompt_embeddings(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The prompt before (1, P, H) and after (1, S, H) the audio."""
        embed = embedding_of(self.network)
        return embed(self._prefix_ids), embed(self._suffix_ids)

    def decode(self, ids: torch.Tensor | Sequence[Sequence[int]]) -> list[str]:
        """The text of each row of token ids, without special tokens."""
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [text.strip() for text in texts]

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token, spaces included: together they are the text.

        A character divided between tokens counts to the first of a run of such tokens within a word.
        """
        found = [self._piece(token) for token in tokens]
        start = 0
        for end in range(1, len(found) + 1):
            following = found[end] if end < len(found) else ""
            if DIVIDED in found[start] and DIVIDED in following and not following[:1].isspace():
                continue
            if end - start > 1:
                found[start:end] = [self._to_text(tokens[start:end]), *[""] * (end - start - 1)]
            start = end
        return found

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = self._to_text([token])
        return self._pieces[token]

    def _to_text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _generation_config(options: GenerationOptions, eos_ids: Collection[int], pad_id: int) -> GenerationConfig:
    """For transformers' generate(), which the references use."""
    sampling = {"temperature": options.temperature, "top_p": options.top_p, "top_k": options.top_k}
    return GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        do_sample=options.do_sample,
        repetition_penalty=options.repetition_penalty,
        eos_token_id=sorted(eos_ids),
        pad_token_id=pad_id,
        **(sampling if options.do_sample else {}),  # greedy search would warn about them
    )
