"""Train the decoder alone to find its way through whole windows: `python -m ml.tiny.pointing --start A --run B …`.

The encoder's answers to some windows are kept, and new windows are spliced together from them between words. That
costs a tenth of training on sound, and finding the next word among sixty is what takes the decoder longest.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ml.tiny.corpus import Pool
from ml.tiny.mel import whisper_scale
from ml.tiny.network import Shape, Trainee, build_network, cross_entropy
from ml.tiny.tokenizer import train_tokenizer, word_ids
from ml.tiny.windows import IGNORED, WHOLE, WindowMaker

TOKEN_FRAMES = 8  # mel frames in an audio token
GROUP = 4  # windows encoded together
NOISE = 0.1  # of the audio tokens' own deviation
MATRIX_RATE, OTHER_RATE = 0.01, 6e-4


@dataclass(frozen=True)
class Heard:
    """What the encoder says of a window: `audio` (375, H), and each word's class with its first and last token."""

    audio: torch.Tensor
    words: list[tuple[int, int, int]]


def listen(trainee: Trainee, maker: WindowMaker, count: int) -> list[Heard]:
    """The encoder's answers to `count` fresh windows."""
    heard: list[Heard] = []
    while len(heard) < count:
        windows = [maker._window(WHOLE, 0.2) for _ in range(GROUP)]
        power = torch.from_numpy(np.stack([window.power for window in windows]))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            audio = trainee.encode(whisper_scale(power).transpose(1, 2).contiguous(), 0)[1].float()
        for window, tokens in zip(windows, audio, strict=True):
            spans = [(w, int(start) // TOKEN_FRAMES, int(end) // TOKEN_FRAMES) for w, start, end in window.words]
            heard.append(Heard(tokens, spans))
    return heard


def splice(first: Heard, second: Heard, random: np.random.Generator) -> Heard:
    """The beginning of one window and the end of the other, joined between words; `first` where they do not fit."""
    if len(first.words) < 2 or len(second.words) < 2:
        return first
    index = int(random.integers(1, len(first.words)))
    cut = (first.words[index - 1][2] + first.words[index][1] + 1) // 2
    gaps = [(a[2] + b[1] + 1) // 2 for a, b in zip(second.words, second.words[1:], strict=False)]
    place = int(np.argmin([abs(gap - cut) for gap in gaps]))
    shift = cut - gaps[place]
    rest = [(word, start + shift, end + shift) for word, start, end in second.words[place + 1 :]]
    length = len(first.audio)
    if abs(shift) > 12 or rest[-1][2] >= length:
        return first
    audio = torch.cat([first.audio[:cut], second.audio[gaps[place] :]])[:length]
    audio = torch.cat([audio, audio[-1:].expand(length - len(audio), -1)])
    return Heard(audio, first.words[:index] + rest)


def batch(
    heard: list[Heard], size: int, random: np.random.Generator, ids: list[int], end: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Audio tokens (B, 375, H) of windows spliced up to three times, and their texts (B, L)."""
    chosen = []
    for _ in range(size):
        window = heard[int(random.integers(len(heard)))]
        for _ in range(int(random.integers(0, 4))):
            window = splice(window, heard[int(random.integers(len(heard)))], random)
        chosen.append(window)
    audio = torch.stack([window.audio for window in chosen])
    audio = audio + NOISE * audio.std() * torch.randn_like(audio)
    texts = torch.full((size, 1 + max(len(window.words) for window in chosen)), IGNORED)
    for row, window in zip(texts, chosen, strict=True):
        row[: len(window.words) + 1] = torch.tensor([*(ids[word] for word, _, _ in window.words), end])
    return audio, texts


def train(trainee: Trainee, heard: list[Heard], minutes: float, size: int, seed: int) -> None:
    """Move the decoder's layers for so many minutes."""
    random = np.random.default_rng(seed)
    layers = trainee.network.model.language_model
    trainee.requires_grad_(False)
    weights = [weight for name, weight in layers.named_parameters() if "embed" not in name]
    for weight in weights:
        weight.requires_grad_(True)
    muon = torch.optim.Muon([w for w in weights if w.ndim == 2], lr=MATRIX_RATE, weight_decay=0.01, momentum=0.95)
    adam = torch.optim.AdamW([w for w in weights if w.ndim != 2], lr=OTHER_RATE)
    ids, end = word_ids(trainee.tokenizer), trainee.tokenizer.eos_token_id
    begun, spoken, mean, step = time.time(), time.time(), 0.0, 0
    while (progress := (time.time() - begun) / 60 / minutes) < 1:
        share = min(1.0, (step + 1) / 50) * (0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2)
        audio, texts = batch(heard, size, random, ids, end)
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(trainee.decode(audio, texts.clamp(min=0), 0), texts)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for optimizer, rate in ((muon, MATRIX_RATE), (adam, OTHER_RATE)):
            optimizer.param_groups[0]["lr"] = rate * share
            optimizer.step()
            optimizer.zero_grad()
        step, mean = step + 1, 0.98 * (mean or float(loss.detach())) + 0.02 * float(loss.detach())
        if time.time() - spoken > 20:
            print(f"{time.strftime('%H:%M:%S')} step {step} share {share:.2f} text {mean:.3f}", flush=True)
            spoken = time.time()


def main() -> None:
    """Read the command line; go on from one run and write another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pools", type=Path, nargs="+", required=True)
    parser.add_argument("--start", type=Path, required=True, help="a last.pt to go on from")
    parser.add_argument("--run", type=Path, required=True, help="folder for last.pt")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--heard", type=int, default=1000, help="windows to keep the encoder's answers to")
    parser.add_argument("--windows", type=int, default=8, help="windows a step")
    parser.add_argument("--strength", type=float, default=0.3, help="of the augmentation")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    torch.manual_seed(chosen.seed)
    tokenizer = train_tokenizer()
    trainee = Trainee(build_network(tokenizer, Shape()), tokenizer)
    trainee.tokenizer = tokenizer
    trainee.load_state_dict(torch.load(chosen.start)["average"])
    pools = [Pool.load(folder) for folder in chosen.pools]
    maker = WindowMaker(pools, [1.0] * len(pools), word_ids(tokenizer), tokenizer.eos_token_id, chosen.seed)
    maker.strength = chosen.strength
    heard = listen(trainee, maker, chosen.heard)
    print(f"{len(heard)} windows heard", flush=True)
    train(trainee, heard, chosen.minutes, chosen.windows, chosen.seed)
    chosen.run.mkdir(parents=True, exist_ok=True)
    state = trainee.state_dict()
    torch.save({"weights": state, "average": state, "step": 0}, chosen.run / "last.pt")


if __name__ == "__main__":
    main()
