"""Train the tiny model on pools of speech, in two processes of one thread each.

Run `python -m ml.tiny_model.train --pools A B --run FOLDER --steps N …`; see README.md for the whole course.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from random import Random

import jiwer
import numpy as np
import torch
import torch.distributed as distributed
from torch.multiprocessing.spawn import spawn
from transformers import VoxtralForConditionalGeneration

from ml.tiny_model import vocabulary
from ml.tiny_model.corpus import Pool, trained_variants
from ml.tiny_model.decoder_init import init_decoder
from ml.tiny_model.evaluate import Clip, recording, short_clips
from ml.tiny_model.mel import mel_power, whisper_scale
from ml.tiny_model.network import BLOCK, Shape, Trainee, build_network
from ml.tiny_model.optimizer import PROCESSES, Optimizer
from ml.tiny_model.speech import Espeak
from ml.tiny_model.tokenizer import train_tokenizer, word_ids
from ml.tiny_model.windows import WHOLE, WindowMaker

WARMUP_STEPS = 50
FITTED_WINDOWS = 64  # to which the decoder's initial weights are fitted


class Trainer:
    """One process's part: its own windows, the same weights."""

    def __init__(self, rank: int, chosen: argparse.Namespace) -> None:
        self.rank, self.chosen = rank, chosen
        torch.manual_seed(chosen.seed)
        self.tokenizer = train_tokenizer()
        self.trainee = Trainee(build_network(self.tokenizer, Shape()), self.tokenizer)
        self.step = 0
        if chosen.start:
            self._restore(chosen.start)
        pools = [Pool.load(folder) for folder in chosen.pools]
        shares = [
            len(pool.frames) / (3 if "festival" in folder.name else 1)
            for folder, pool in zip(chosen.pools, pools, strict=True)
        ]
        seed = chosen.seed * 1_000_003 + self.step * 10
        ids, end = word_ids(self.tokenizer), self.tokenizer.eos_token_id
        if chosen.aim_decoder:
            windows = WindowMaker(pools, shares, ids, end, seed + PROCESSES)  # the same in every process
            windows.strength = chosen.strength[0]
            init_decoder(self.trainee, windows.batch(FITTED_WINDOWS, WHOLE, chosen.single))
        self.average = {name: value.clone() for name, value in self.trainee.state_dict().items()}
        self.windows = WindowMaker(pools, shares, ids, end, seed + rank)
        self.blocks = np.random.default_rng(seed)  # the same in every process
        self.optimizer = Optimizer(rank, self.trainee)

    def run(self) -> None:
        """Train for the chosen steps."""
        started_s, logged_s, tested_s = time.time(), time.time(), time.time()
        parts = dict[str, float]()
        for done in range(self.chosen.steps):
            progress = done / self.chosen.steps
            rate = self._rate(progress, done)
            for name, value in self._train_step(rate, progress).items():
                parts[name] = 0.95 * parts.get(name, value) + 0.05 * value
            if self.rank == 0 and time.time() - logged_s > 30:
                per_step = (time.time() - started_s) / (done + 1)
                figures = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
                print(
                    f"{time.strftime('%H:%M:%S')} step {self.step} {per_step:.2f} s rate {rate:.5f} {figures}",
                    flush=True,
                )
                logged_s = time.time()
            if self._shared(time.time() - tested_s) > 60 * self.chosen.test_every:
                self.save()
                self.test()
                tested_s = time.time()
        self.save()
        self.test()

    def _shared(self, value: float) -> float:
        """The first process's value."""
        shared = torch.tensor([value])
        distributed.broadcast(shared, 0)
        return float(shared)

    def _rate(self, progress: float, steps: int) -> float:
        """Warm-up, then a cosine from `rate` to `final_rate`."""
        low, high = self.chosen.final_rate, self.chosen.rate
        return float(
            min(1.0, (steps + 1) / WARMUP_STEPS) * (low + (high - low) * (1 + math.cos(math.pi * progress)) / 2)
        )

    def _train_step(self, rate: float, progress: float) -> dict[str, float]:
        low, high = self.chosen.strength
        self.windows.strength = low + (high - low) * progress
        batch = self.windows.batch(self.chosen.windows, self.chosen.frames, self.chosen.single)
        blocked = self.chosen.frames == WHOLE and self.blocks.random() < self.chosen.blocked
        shift = int(self.blocks.integers(BLOCK)) if blocked else None
        loss: torch.Tensor
        parts: dict[str, float]
        loss, parts = self.trainee(batch, self.chosen.helpers, self.chosen.text, shift)
        loss.backward()
        self.optimizer.step(rate)
        self.step += 1
        self._average_weights()
        return parts

    @torch.no_grad()
    def _average_weights(self) -> None:
        share = 1 - min(0.995, self.step / (self.step + 20))
        state = self.trainee.state_dict()
        torch._foreach_lerp_(list(self.average.values()), [state[name] for name in self.average], share)

    def save(self) -> None:
        """Write the run's state, replacing the last one."""
        if self.rank == 0:
            state = {"weights": self.trainee.state_dict(), "average": self.average, "step": self.step}
            torch.save(state, self.chosen.run / "next.pt")
            (self.chosen.run / "next.pt").replace(self.chosen.run / "last.pt")

    def _restore(self, start: Path) -> None:
        """Continue from the average of a run, or from an exported folder, which has no helper heads."""
        if start.is_dir():
            network = VoxtralForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
            self.trainee.network.load_state_dict(network.state_dict())
            return
        state = torch.load(start)
        embeddings = state["average"]["network.model.language_model.embed_tokens.weight"]
        state["average"]["network.lm_head.weight"] = embeddings
        self.trainee.load_state_dict(state["average"])
        self.step = state["step"]

    def test(self) -> None:
        """Print the word error rate of the averaged weights on unseen speech; the processes share the sets."""
        if self.chosen.text == "none":
            return
        kept = {name: value.clone() for name, value in self.trainee.state_dict().items()}
        self.trainee.load_state_dict(self.average)
        for name, clips in test_sets()[self.rank :: PROCESSES]:
            print(f"{name}: word error rate {error_rate(self.trainee, clips):.3f}", flush=True)
        self.trainee.load_state_dict(kept)


def test_sets() -> list[tuple[str, list[Clip]]]:
    """Unseen sentences in trained and in held-out voices, one or many in a clip."""
    espeak, random = Espeak(), Random(78)
    voices = trained_variants(espeak)
    long = [recording(espeak, random, random.choice(voices), 26) for _ in range(8)]
    return [
        ("short, trained voices", short_clips(40, 77, held_out=False)),
        ("whole windows, trained voices", [clip for clip in long if len(clip.waveform) <= WHOLE * 160]),
        ("short, held-out voices", short_clips(20, 77, held_out=True)),
    ]


def error_rate(trainee: Trainee, clips: list[Clip]) -> float:
    """Word error rate on clips of at most 30 s, each padded to that as the service does."""
    found: list[list[int]] = []
    for place in range(0, len(clips), 8):
        found += greedy(trainee, torch.stack([features(clip) for clip in clips[place : place + 8]]))
    words = {number: str(index) for index, number in enumerate(trainee.classes.tolist())}
    numbers = {word: str(index + 1) for index, word in enumerate(vocabulary.words())}
    references = [" ".join(numbers[word] for word in clip.words) for clip in clips]
    return float(jiwer.wer(references, [" ".join(words.get(number, "?") for number in row) for row in found]))


def features(clip: Clip) -> torch.Tensor:
    """Input features (128, 3000) of a clip padded with digital silence."""
    waveform = torch.zeros(WHOLE * 160)
    waveform[: len(clip.waveform)] = torch.from_numpy(clip.waveform)
    return whisper_scale(mel_power(waveform)).T


@torch.no_grad()
def greedy(trainee: Trainee, inputs: torch.Tensor, limit: int = 100) -> list[list[int]]:
    """Decode features (B, 128, T) greedily to token ids, up to the end token."""
    end = int(trainee.classes[0])
    audio = trainee.encode(inputs, 0)[1]
    texts = torch.zeros(len(inputs), 1, dtype=torch.long)
    for _ in range(limit):
        chosen = trainee.decode(audio, texts, 0)[:, -1].argmax(dim=-1)
        texts = torch.cat([texts[:, :-1], chosen[:, None], torch.zeros_like(texts[:, :1])], dim=1)
        if (texts == end).any(dim=1).all():
            break
    return [row[: row.index(end)] if end in row else row for row in texts[:, :-1].tolist()]


def run_process(rank: int, chosen: argparse.Namespace) -> None:
    """One process of the training."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{chosen.run}/rendezvous", rank=rank, world_size=PROCESSES
    )
    Trainer(rank, chosen).run()
    distributed.destroy_process_group()


def main() -> None:
    """Read the command line and start the processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pools", type=Path, nargs="+", required=True)
    parser.add_argument("--run", type=Path, required=True, help="folder for last.pt")
    parser.add_argument("--start", type=Path, help="a last.pt or an exported folder to continue from")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--frames", type=int, default=600, help="mel frames in a window")
    parser.add_argument("--windows", type=int, default=8, help="windows a step in each process")
    parser.add_argument("--single", type=float, default=0.3, help="share of windows with one utterance")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--final-rate", type=float, default=1e-3)
    parser.add_argument("--helpers", type=float, default=1.0, help="scale of the helper losses")
    parser.add_argument(
        "--strength", type=float, nargs=2, default=(0.2, 1.0), help="of augmentation at the start and at the end"
    )
    parser.add_argument("--blocked", type=float, default=0.75, help="share of steps whose encoder attends within 6 s")
    parser.add_argument(
        "--text", choices=("none", "decoder", "all"), default="all", help="which part learns from the text"
    )
    parser.add_argument("--aim-decoder", action="store_true", help="initialise the decoder as decoder_init.py does")
    parser.add_argument("--test-every", type=float, default=4, help="minutes")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    chosen.run.mkdir(parents=True, exist_ok=True)
    (chosen.run / "rendezvous").unlink(missing_ok=True)
    spawn(run_process, (chosen,), PROCESSES)


if __name__ == "__main__":
    main()
