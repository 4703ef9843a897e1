"""The tiny Borealis: its shape, and the forward pass of training, with helper losses on the known alignment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn
from transformers import PreTrainedTokenizerFast, VoxtralConfig, VoxtralForConditionalGeneration

from ml.borealis.convert import HEAD_DIM
from ml.borealis.prompt import build_prompt
from ml.tiny_model.encoder_init import init_weights
from ml.tiny_model.tokenizer import word_ids
from ml.tiny_model.windows import IGNORED, WORD_ROWS, Batch

AUDIO_TOKENS = 375  # in the prompt of a whole 30 s window
PHONEME_CLASSES = 64
BLOCK = 300  # encoder frames of 20 ms that attend to each other in blocked steps
SUBSTITUTED = 0.3  # share of words in the decoder's input that are replaced by its own guesses
WORD_LOSS, PHONEME_LOSS = 1.0, 1.0  # weights of the helper losses
WORD_NAMES = ("current", "next", "last", "second")  # the rows of a batch's word classes


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, by default the tiny one's; heads are 64 wide, the encoder's feed-forward is 4 widths."""

    encoder_width: int = 192
    encoder_layers: int = 4
    decoder_width: int = 192
    decoder_layers: int = 3
    decoder_ffn: int = 512
    key_value_heads: int | None = None  # by default as many as query heads
    vocabulary: int | None = None  # by default the tokenizer's


def make_config(tokenizer: PreTrainedTokenizerFast, shape: Shape) -> VoxtralConfig:
    """Return a configuration with every value written out."""
    audio: dict[str, Any] = {
        "model_type": "voxtral_encoder",
        "num_mel_bins": 128,
        "max_source_positions": 1500,
        "hidden_size": shape.encoder_width,
        "num_hidden_layers": shape.encoder_layers,
        "num_attention_heads": shape.encoder_width // HEAD_DIM,
        "head_dim": HEAD_DIM,
        "intermediate_size": 4 * shape.encoder_width,
        "activation_function": "gelu",
        "scale_embedding": False,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "layerdrop": 0.0,
        "initializer_range": 0.02,
    }
    text: dict[str, Any] = {
        "model_type": "qwen2",
        "vocab_size": shape.vocabulary or len(tokenizer),
        "hidden_size": shape.decoder_width,
        "num_hidden_layers": shape.decoder_layers,
        "num_attention_heads": shape.decoder_width // HEAD_DIM,
        "num_key_value_heads": shape.key_value_heads or shape.decoder_width // HEAD_DIM,
        "head_dim": HEAD_DIM,
        "intermediate_size": shape.decoder_ffn,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "max_position_embeddings": 4096,
        "max_window_layers": shape.decoder_layers,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "attention_dropout": 0.0,
        "initializer_range": 0.05,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return VoxtralConfig(
        audio_config=audio,
        text_config=text,
        audio_token_id=tokenizer.pad_token_id,
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )


def build_network(tokenizer: PreTrainedTokenizerFast, shape: Shape) -> VoxtralForConditionalGeneration:
    """Return a fresh network."""
    network = VoxtralForConditionalGeneration(make_config(tokenizer, shape))
    network.lm_head.weight = network.get_input_embeddings().weight
    init_weights(network)
    network.set_attn_implementation("sdpa")
    return network


class Trainee(nn.Module):
    """The network with helper heads, which are dropped after training."""

    before: torch.Tensor  # (1, P) prompt ids up to the audio
    after: torch.Tensor  # (1, S) prompt ids after it
    classes: torch.Tensor  # (C,) the token of each class of the word heads

    def __init__(self, network: VoxtralForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.network = network
        width = network.config.text_config.hidden_size
        self.phoneme_head = nn.Linear(network.config.audio_config.d_model, PHONEME_CLASSES)
        self.word_heads = nn.ModuleList([nn.Linear(width, width) for _ in range(WORD_ROWS)])
        self.word_bias = nn.Parameter(torch.zeros(WORD_ROWS, len(word_ids(tokenizer)) + 1))
        prompt = build_prompt(tokenizer)
        self.register_buffer("before", torch.tensor([prompt.prefix_ids]), persistent=False)
        self.register_buffer("after", torch.tensor([prompt.suffix_ids]), persistent=False)
        # class 0 of the word heads is "no word", class n + 1 is word n of the vocabulary
        self.register_buffer("classes", torch.tensor([tokenizer.eos_token_id, *word_ids(tokenizer)]), persistent=False)

    def encode(
        self, features: torch.Tensor, offset: int, shift: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoder frames (B, T/2, D) and audio tokens (B, T/8, H) of features (B, 128, T).

        `offset` is the encoder position of the 30 s at which the features begin. With a `shift` attention stays within
        blocks of 6 s that begin there, at half the cost of a whole window; blocks wrap around.
        """
        tower = self.network.model.audio_tower
        hidden = functional.gelu(tower.conv1(features))
        hidden = functional.gelu(tower.conv2(hidden)).transpose(1, 2)  # (B, T/2, D)
        hidden = hidden + tower.embed_positions.weight[offset : offset + hidden.shape[1]]
        shape = hidden.shape
        if shift is not None:
            hidden = hidden.roll(-shift, dims=1).reshape(-1, BLOCK, shape[2])
        for layer in tower.layers:
            hidden = layer(hidden, attention_mask=None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        hidden = tower.layer_norm(hidden.reshape(shape))
        if shift is not None:
            hidden = hidden.roll(shift, dims=1)
        grouped = hidden.reshape(hidden.shape[0], -1, 4 * hidden.shape[2])  # (B, T/8, 4 D)
        return hidden, self.network.model.multi_modal_projector(grouped)

    def decode(self, audio: torch.Tensor, texts: torch.Tensor, offset: int) -> torch.Tensor:
        """Logits (B, L, V) of the text ids (B, L). Positions are those of a whole window's audio tokens."""
        embed = self.network.get_input_embeddings()
        count = len(audio)
        parts = [embed(self.before).expand(count, -1, -1), audio, embed(self.after).expand(count, -1, -1)]
        hidden = torch.cat([*parts, embed(texts[:, :-1])], dim=1)
        begin, after = self.before.shape[1], self.before.shape[1] + AUDIO_TOKENS
        positions = torch.cat(
            [
                torch.arange(begin),
                torch.arange(begin + offset // 4, begin + offset // 4 + audio.shape[1]),
                torch.arange(after, after + self.after.shape[1] + texts.shape[1] - 1),
            ]
        )
        output = self.network.model.language_model(
            inputs_embeds=hidden,
            attention_mask=torch.ones(
                hidden.shape[:2], dtype=torch.long
            ),  # without it a jump in position hides the past
            position_ids=positions[None].expand(count, -1),
            use_cache=False,
        )
        return self.network.lm_head(output.last_hidden_state[:, -texts.shape[1] :])  # type: ignore[no-any-return]

    @torch.no_grad()
    def _substitute(self, audio: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Replace some words of the texts (B, L) by the decoder's own guesses, which it then learns to recover from."""
        texts = batch.texts.clamp(min=0)
        guesses = self.decode(audio, texts, batch.offset).argmax(dim=-1)
        taken = (torch.rand(texts.shape) < SUBSTITUTED) & torch.isin(guesses, self.classes[1:])
        return torch.where(taken & (batch.texts != self.classes[0]), guesses, texts)

    def forward(
        self, batch: Batch, helpers: float, learner: str, shift: int | None
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss and its parts; `helpers` scales the helper losses, `shift` is as in `encode`.

        `learner` names the part that learns from the text: "none", the "decoder" alone, or "all".
        """
        frames, audio = self.encode(batch.features, batch.offset, shift)
        text = torch.zeros(())
        if learner != "none":
            decoded_audio = audio.detach() if learner == "decoder" else audio
            inputs = self._substitute(decoded_audio.detach(), batch)
            text = cross_entropy(self.decode(decoded_audio, inputs, batch.offset), batch.texts)
        phoneme = cross_entropy(self.phoneme_head(frames), batch.phonemes)
        rows = self.network.get_input_embeddings().weight[self.classes]
        words = torch.stack(
            [
                cross_entropy(functional.linear(head(audio), rows, bias), batch.words[index])
                for index, (head, bias) in enumerate(zip(self.word_heads, self.word_bias, strict=True))
            ]
        )
        loss = text + helpers * (PHONEME_LOSS * phoneme + WORD_LOSS * words.mean())
        parts = {"text": text, "phoneme": phoneme, **dict(zip(WORD_NAMES, words, strict=True))}
        return loss, {name: float(part.detach()) for name, part in parts.items()}


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of logits (..., C) over the targets (...) that are not ignored."""
    flat = logits.flatten(0, -2).float()
    return functional.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED)
