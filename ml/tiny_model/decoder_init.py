"""Initial weights of the decoder: it finds the last two words of the text in the audio and reads the next one there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn

from ml.tiny_model.network import AUDIO_TOKENS, Trainee
from ml.tiny_model.windows import IGNORED, Batch

HEAD = 64
SLOW = torch.cat([torch.arange(16, 32), torch.arange(48, 64)])  # channels that rotary positions hardly rotate
GATE, GATE_SCORE = torch.tensor([15]), 20.0  # the channel that keeps attention on the audio, and how much
FAST = 8  # pairs of channels whose rotation differs from one position to the next
PREVIOUS_SHARPNESS = 7.0  # of the head that attends to the previous word
PREVIOUS_GAIN = 1.5  # of the previous word against the word itself
MATCH_SCORE = 12.0  # by which a match in both words leads in attention
READ_GAIN = 12.0
SURE_LOGIT = 8.0  # of a helper head where its fit is certain
# rows of `Batch.words` that each head reads, and matches with the last word of the text and the one before it
CIRCUITS = ((1, (2, 3)), (2, (3,)), (2, (3,)))


@torch.no_grad()
def init_decoder(trainee: Trainee, batch: Batch) -> None:
    """Fit the helper heads and aim the decoder, to the encoder's output for a batch of whole windows."""
    encoded = [trainee.encode(features[None], 0) for features in batch.features]  # one at a time to save memory
    frames, audio = (torch.cat(parts) for parts in zip(*encoded, strict=True))
    fit_helper_heads(trainee, frames, audio, batch)
    aim_decoder(trainee, audio, batch)


def fit_helper_heads(trainee: Trainee, frames: torch.Tensor, audio: torch.Tensor, batch: Batch) -> None:
    """Set the helper heads to least squares fits on encoder frames (B, T/2, D) and audio tokens (B, T/8, H)."""
    classes = trainee.phoneme_head.out_features
    sounds = functional.one_hot(batch.phonemes.clamp(min=0), classes).float()
    fit = _Fit(frames[batch.phonemes != IGNORED], sounds[batch.phonemes != IGNORED])
    _put(trainee.phoneme_head, torch.arange(classes), fit, SURE_LOGIT)
    table = _table(trainee)
    for head, words in zip(trainee.word_heads, batch.words, strict=True):
        fit = _Fit(audio, table[words])
        _put(head, torch.arange(table.shape[1]), fit, SURE_LOGIT / float(table.square().sum(dim=1).mean()))


def aim_decoder(trainee: Trainee, audio: torch.Tensor, batch: Batch) -> None:
    """Set the decoder's first two layers by the audio tokens (B, T/8, H) of a batch of whole windows.

    A head of layer 0 writes the previous word into directions that audio tokens hardly use. Each head of layer 1 finds
    the last two words of the text in the audio and reads the next word there: the projections are least squares fits
    on sketches of the words' embeddings. The outputs of all other weights are small at first.
    """
    decoder = trainee.network.model.language_model
    table = _table(trainee)
    for layer in decoder.layers:
        _shrink(layer)
    quiet = _attend_previous(decoder.layers[0].self_attn, audio, float(table.norm(dim=1).mean()))
    hidden = _inputs(decoder.layers[1], trainee, audio, batch.texts)
    data = _AimData(hidden, trainee.before.shape[1], batch, _class_numbers(trainee, batch.texts), table, quiet)
    for head, (read, rows) in enumerate(CIRCUITS):
        _aim_head(decoder.layers[1].self_attn, head, data, read, rows)


@dataclass(frozen=True)
class _AimData:
    """What the heads of layer 1 are fitted to."""

    hidden: torch.Tensor  # (B, S, H), their inputs
    start: int  # position of the first audio token
    batch: Batch
    numbers: torch.Tensor  # (B, L), word classes of the text
    table: torch.Tensor  # (C, H), embeddings of the word classes
    quiet: torch.Tensor  # (H, 64), directions that hold the previous word

    @property
    def audio(self) -> torch.Tensor:
        """The audio tokens' part, (B, T/8, H)."""
        return self.hidden[:, self.start : self.start + AUDIO_TOKENS]

    def pad(self, goals: torch.Tensor) -> torch.Tensor:
        """Pad the goals (B, T/8, K) of audio tokens with zeros for all other positions: (B, S, K)."""
        return functional.pad(goals, (0, 0, self.start, self.hidden.shape[1] - self.start - goals.shape[1]))


def _aim_head(attention: Any, head: int, data: _AimData, read: int, rows: tuple[int, ...]) -> None:
    """Make a head match the last words of the text with rows of the audio's words, and read another row there."""
    table, words = data.table, data.batch.words
    valid = data.batch.texts != IGNORED
    text = data.hidden[:, -valid.shape[1] :]  # from the prompt's last token on
    last = functional.pad(data.numbers[:, :-1], (1, 0))
    recent = (last, functional.pad(last[:, :-1], (1, 0)))[: len(rows)]
    sketches = (_orthonormal(len(table.T), HEAD // 2), data.quiet @ _orthonormal(HEAD, HEAD // 2))[: len(rows)]
    asked = torch.stack([table[ours] @ sketch for ours, sketch in zip(recent, sketches, strict=True)]).sum(dim=0)
    offered = torch.stack([table[words[row]] @ sketch for row, sketch in zip(rows, sketches, strict=True)]).sum(dim=0)
    query, key = _Fit(text[valid], asked[valid]), _Fit(data.hidden, data.pad(offered))
    match = valid[:, :, None].expand(-1, -1, AUDIO_TOKENS)
    for ours, row in zip(recent, rows, strict=True):
        match = match & (ours[:, :, None] == words[row][:, None])
    scores = query(text) @ key(data.audio).transpose(1, 2) * HEAD**-0.5
    sharpness = MATCH_SCORE / float(scores[match].mean() - scores[~match].mean())
    first = head * HEAD
    _put(attention.q_proj, first + SLOW, query, sharpness**0.5)
    _put(attention.k_proj, first + SLOW, key, sharpness**0.5)
    gate = _Fit(data.hidden, 1 - data.pad(torch.ones(*words.shape[1:], 1)))
    _put(attention.k_proj, first + GATE, gate, -GATE_SCORE)
    attention.q_proj.weight[first + GATE] = 0
    attention.q_proj.bias[first + GATE] = HEAD**0.5
    sketch = _orthonormal(len(table.T), HEAD)
    _put(attention.v_proj, first + torch.arange(HEAD), _Fit(data.audio, table[words[read]] @ sketch), 1.0)
    attention.o_proj.weight[:, first : first + HEAD] = sketch * READ_GAIN


def _table(trainee: Trainee) -> torch.Tensor:
    """Embeddings (C, H) of the word classes, less their mean."""
    rows = trainee.network.get_input_embeddings().weight[trainee.classes]
    return rows - rows.mean(dim=0)  # type: ignore[no-any-return]


class _Fit:
    """A linear map with offset, by least squares from inputs (..., H) to goals (..., K)."""

    def __init__(self, inputs: torch.Tensor, goals: torch.Tensor) -> None:
        inputs, goals = inputs.flatten(0, -2), goals.flatten(0, -2)
        centre, middle = inputs.mean(dim=0), goals.mean(dim=0)
        square = (inputs - centre).T @ (inputs - centre)
        ridge = 1e-3 * square.diagonal().mean() * torch.eye(len(square))
        self.weight = torch.linalg.solve(square + ridge, (inputs - centre).T @ (goals - middle)).T
        self.bias = middle - self.weight @ centre

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return functional.linear(inputs, self.weight, self.bias)


def _put(projection: Any, rows: torch.Tensor, fit: _Fit, gain: float) -> None:
    projection.weight[rows], projection.bias[rows] = fit.weight * gain, fit.bias * gain


def _shrink(layer: Any) -> None:
    """Draw fresh weights whose outputs are small."""
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(0, module.weight.shape[1] ** -0.5)
            if module.bias is not None:
                module.bias.zero_()
    for norm in (layer.input_layernorm, layer.post_attention_layernorm):
        norm.weight.fill_(1)
    for module in (layer.self_attn.o_proj, layer.mlp.down_proj):
        module.weight *= 0.1
    for module in (layer.self_attn.q_proj, layer.self_attn.k_proj):
        module.weight *= 0.5


def _attend_previous(attention: Any, audio: torch.Tensor, embedding_norm: float) -> torch.Tensor:
    """Make head 0 copy the previous token into the directions (H, 64) in which audio tokens vary least; return them."""
    normed = functional.rms_norm(audio, audio.shape[-1:], eps=1e-6).flatten(0, 1)
    quiet = torch.linalg.eigh(torch.cov(normed.T))[1][:, :HEAD]  # (H, 64)
    pairs = torch.arange(FAST)
    turned = 1e6 ** (-pairs / (HEAD // 2))  # rad a position
    for projection, angle in ((attention.q_proj, turned), (attention.k_proj, turned * 0)):
        projection.weight[:HEAD] = 0
        projection.bias[pairs] = PREVIOUS_SHARPNESS * angle.cos()
        projection.bias[pairs + HEAD // 2] = -PREVIOUS_SHARPNESS * angle.sin()
    attention.v_proj.weight[:HEAD] = quiet.T
    attention.v_proj.bias[:HEAD] = -quiet.T @ normed.mean(dim=0)
    scale = PREVIOUS_GAIN * embedding_norm * len(quiet) ** -0.5
    attention.o_proj.weight[:, :HEAD] = quiet @ _orthonormal(HEAD, HEAD) * scale
    return quiet  # type: ignore[no-any-return]


def _orthonormal(rows: int, columns: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(rows, columns))[0]  # type: ignore[no-any-return]


def _inputs(layer: Any, trainee: Trainee, audio: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """The input of attention in a decoder layer, (B, S, H)."""
    kept: list[torch.Tensor] = []
    hook = layer.input_layernorm.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    trainee.decode(audio, texts.clamp(min=0), 0)
    hook.remove()
    return kept[0]


def _class_numbers(trainee: Trainee, texts: torch.Tensor) -> torch.Tensor:
    """The word classes of token ids (B, L); 0 for the end and what is ignored."""
    numbers = torch.zeros(int(trainee.classes.max()) + 1, dtype=torch.long)
    numbers[trainee.classes] = torch.arange(len(trainee.classes))
    return numbers[texts.clamp(min=0)] * (texts != IGNORED)
