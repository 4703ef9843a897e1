"""Train the tiny model on pools of speech, in two processes of one thread each.

Run `python -m ml.tiny.train --pools A B --run FOLDER --minutes M --frames T …`; see README.md for the whole course.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import jiwer
import torch
import torch.distributed as distributed
from torch.multiprocessing.spawn import spawn

from ml.tiny.beginning import aim_decoder
from ml.tiny.corpus import Pool
from ml.tiny.judged import Clip, short_clips
from ml.tiny.mel import mel_power, whisper_scale
from ml.tiny.network import Shape, Trainee, build_network
from ml.tiny.steering import PROCESSES, Steering
from ml.tiny.tokenizer import train_tokenizer, word_ids
from ml.tiny.windows import WHOLE, Batch, WindowMaker

WARMUP_STEPS = 50
SHORT = 600  # mel frames in a short window


class Trainer:
    """One process's part: its own windows, the same weights."""

    def __init__(self, rank: int, chosen: argparse.Namespace) -> None:
        self.rank, self.chosen = rank, chosen
        torch.manual_seed(chosen.seed)
        self.tokenizer = train_tokenizer()
        self.trainee = Trainee(build_network(self.tokenizer, Shape()), self.tokenizer)
        self.steering = Steering(rank, self.trainee)
        self.average = {name: value.clone() for name, value in self.trainee.state_dict().items()}
        self.step = 0
        if chosen.start:
            self._restore(torch.load(chosen.start))
        if chosen.aim_decoder:
            aim_decoder(self.trainee.network, [head.get_parameter("weight") for head in self.trainee.word_heads])
        pools = [Pool.load(folder) for folder in chosen.pools]
        shares = [
            len(pool.frames) / (3 if "festival" in folder.name else 1)
            for folder, pool in zip(chosen.pools, pools, strict=True)
        ]
        seed = chosen.seed * 1_000_003 + self.step * 10 + rank
        self.windows = WindowMaker(pools, shares, word_ids(self.tokenizer), self.tokenizer.eos_token_id, seed)

    def run(self) -> None:
        """Train for the chosen minutes."""
        begun, spoken, tested = time.time(), time.time(), time.time()
        first, parts = self.step, dict[str, float]()
        while (progress := self._shared((time.time() - begun) / 60 / self.chosen.minutes)) < 1:
            rate = self._rate(progress, self.step - first)
            for name, value in self._train_step(rate, progress).items():
                parts[name] = 0.98 * parts.get(name, value) + 0.02 * value
            if self.rank == 0 and time.time() - spoken > 30:
                per_step = (time.time() - begun) / (self.step - first)
                figures = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
                print(
                    f"{time.strftime('%H:%M:%S')} step {self.step} {per_step:.2f} s rate {rate:.5f} {figures}",
                    flush=True,
                )
                spoken = time.time()
            if self.rank == 0 and time.time() - tested > 60 * self.chosen.test_every:
                self.save()
                self.test()
                tested = time.time()
        if self.rank == 0:
            self.save()
            self.test()

    def _shared(self, progress: float) -> float:
        """The first process's clock."""
        value = torch.tensor([progress])
        distributed.broadcast(value, 0)
        return float(value)

    def _rate(self, progress: float, steps: int) -> float:
        """Warm-up, then a cosine from `rate` to `final_rate`."""
        low, high = self.chosen.final_rate, self.chosen.rate
        return float(
            min(1.0, (steps + 1) / WARMUP_STEPS) * (low + (high - low) * (1 + math.cos(math.pi * progress)) / 2)
        )

    def _train_step(self, rate: float, progress: float) -> dict[str, float]:
        low, high = self.chosen.strength
        self.windows.strength = low + (high - low) * progress
        batch = self._batch()
        with torch.autocast("cpu", torch.bfloat16):
            loss: torch.Tensor
            parts: dict[str, float]
            loss, parts = self.trainee(batch, self.chosen.helpers, not self.chosen.encoder_only)
        loss.backward()
        self.steering.step(rate)
        self.step += 1
        self._average_weights()
        return parts

    @torch.no_grad()
    def _average_weights(self) -> None:
        share = 1 - min(0.995, self.step / (self.step + 20))
        state = self.trainee.state_dict()
        torch._foreach_lerp_(list(self.average.values()), [state[name] for name in self.average], share)

    def _batch(self) -> Batch:
        """Every other batch is of four times as many short windows where whole ones are trained."""
        if self.chosen.frames == WHOLE and self.step % 2 == 0:
            return self.windows.batch(4 * self.chosen.windows, SHORT, self.chosen.single)
        return self.windows.batch(self.chosen.windows, self.chosen.frames, self.chosen.single)

    def save(self) -> None:
        """Write the run's state, replacing the last one."""
        state = {
            "weights": self.trainee.state_dict(),
            "average": self.average,
            "step": self.step,
        }
        self.chosen.run.mkdir(parents=True, exist_ok=True)
        torch.save(state, self.chosen.run / "next.pt")
        (self.chosen.run / "next.pt").replace(self.chosen.run / "last.pt")

    def _restore(self, state: dict[str, Any]) -> None:
        for weights in (state["weights"], state["average"]):
            weights["network.lm_head.weight"] = weights["network.model.language_model.embed_tokens.weight"]
        self.trainee.load_state_dict(state["average"])
        self.average, self.step = state["average"], state["step"]

    def test(self) -> None:
        """Print the word error rate of the averaged weights on unseen sentences in trained and held-out voices."""
        if self.chosen.encoder_only:
            return
        kept = {name: value.clone() for name, value in self.trainee.state_dict().items()}
        self.trainee.load_state_dict(self.average)
        rates = [error_rate(self.trainee, short_clips(64, 77, held_out), SHORT) for held_out in (False, True)]
        self.trainee.load_state_dict(kept)
        print(f"word error rate, trained voices {rates[0]:.3f}, held out {rates[1]:.3f}", flush=True)


def error_rate(trainee: Trainee, clips: list[Clip], frames: int) -> float:
    """Word error rate on clips that fit into windows of so many mel frames."""
    clips = [clip for clip in clips if len(clip.waveform) <= frames * 160]
    said: list[list[int]] = []
    for place in range(0, len(clips), 16):
        said += greedy(trainee, torch.stack([features(clip, frames) for clip in clips[place : place + 16]]))
    words = {number: str(index) for index, number in enumerate(trainee.classes.tolist())}
    numbers = {word: str(index + 1) for index, word in enumerate(_known())}
    references = [" ".join(numbers[word] for word in clip.words) for clip in clips]
    return float(jiwer.wer(references, [" ".join(words.get(number, "?") for number in row) for row in said]))


def _known() -> list[str]:
    from ml.tiny.vocabulary import words

    return words()


def features(clip: Clip, frames: int = WHOLE) -> torch.Tensor:
    """Input features (128, T) of a clip padded with digital silence."""
    waveform = torch.zeros(frames * 160)
    waveform[: len(clip.waveform)] = torch.from_numpy(clip.waveform)
    return whisper_scale(mel_power(waveform)).T


@torch.no_grad()
def greedy(trainee: Trainee, inputs: torch.Tensor, limit: int = 24) -> list[list[int]]:
    """Token ids that the model says for features (B, 128, T), up to its end token."""
    end = int(trainee.classes[0])
    with torch.autocast("cpu", torch.bfloat16):
        audio = trainee.encode(inputs, 0)[1]
        texts = torch.zeros(len(inputs), 1, dtype=torch.long)
        for _ in range(limit):
            chosen = trainee.decode(audio, texts, 0)[:, -1].argmax(dim=-1)
            texts = torch.cat([texts[:, :-1], chosen[:, None], torch.zeros_like(texts[:, :1])], dim=1)
            if (texts == end).any(dim=1).all():
                break
    return [row[: row.index(end)] if end in row else row for row in texts[:, :-1].tolist()]


def work(rank: int, chosen: argparse.Namespace) -> None:
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
    parser.add_argument("--start", type=Path, help="a last.pt to go on from")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--frames", type=int, default=600, help="mel frames in a window")
    parser.add_argument("--windows", type=int, default=8, help="windows a step in each process")
    parser.add_argument("--single", type=float, default=0.3, help="share of windows with one utterance")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--final-rate", type=float, default=1e-3)
    parser.add_argument("--helpers", type=float, default=1.0, help="scale of the helper losses")
    parser.add_argument(
        "--strength", type=float, nargs=2, default=(0.2, 1.0), help="of augmentation at the start and at the end"
    )
    parser.add_argument("--encoder-only", action="store_true", help="train on the helper losses alone")
    parser.add_argument("--aim-decoder", action="store_true", help="let the decoder begin by copying")
    parser.add_argument("--test-every", type=float, default=4, help="minutes")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    chosen.run.mkdir(parents=True, exist_ok=True)
    (chosen.run / "rendezvous").unlink(missing_ok=True)
    spawn(work, (chosen,), PROCESSES)


if __name__ == "__main__":
    main()
