"""An engine that sleeps instead of recognising, for replicas in processes of their own, which import nothing heavy."""

import os
import threading
import time
from collections.abc import Hashable
from concurrent.futures import Future
from functools import partial

import numpy as np
import ray

from ml.cluster.replica import ReplicaSpec
from ml.errors import EngineStoppedError, RecognitionError
from ml.interfaces import SAMPLE_RATE, Capabilities, RecognitionOptions, Waveform
from ml.transcript import Completion

# The first sample of a chunk selects what the engine does with it; with any other value it answers.
FAIL, STOP, EXIT, SLOW = 0.5, 0.25, 0.125, 0.0625
MAX_CHUNK_S = 24.0  # shorter than Borealis' window
CAPABILITIES = Capabilities(frozenset({"ru", "en"}), takes_prompt=True)  # other than the default
SLOW_RECORDING_S = 2.1  # as slow: what a recording's first sample is, its decoder changes
SLOW_S = 600.0  # over a slow chunk, unless it is cancelled: longer than any test


class SleepingEngine:
    """Answers each chunk after `delay_s` with the node it runs on and the chunk's length in samples."""

    def __init__(self, delay_s: float, slots: int) -> None:
        self._delay_s = delay_s
        self._free = threading.Semaphore(slots)
        self._lock = threading.Lock()
        self._counts = {"engine_chunks": 0, "engine_stopped": 0, "engine_cancelled": 0, "engine_steps": 0}
        self._running = self._stepped_rows = 0
        self.is_alive = True
        self.busy_without_progress_s = self.queued_audio_s = 0.0
        self.max_chunk_s, self.capabilities = MAX_CHUNK_S, CAPABILITIES
        self._node = ray.get_runtime_context().get_node_id()[:12]  # short: the guard refuses implausibly long texts

    def submit(
        self, waveform: Waveform, recording_id: Hashable = None, options: RecognitionOptions | None = None
    ) -> "Future[Completion]":
        future: Future[Completion] = Future()
        threading.Thread(target=self._recognise, args=(waveform, future), daemon=True).start()
        return future

    def gauges(self) -> dict[str, float]:
        return {**self._counts, "engine_stepped_rows": self._stepped_rows, "slots_occupied": self._running}

    def abort_all(self) -> None:
        pass

    def close(self) -> None:
        self.is_alive = False

    def _recognise(self, waveform: Waveform, future: "Future[Completion]") -> None:
        with self._free:
            self._count("engine_steps", 1)
            time.sleep(self._delay_s)
            deadline_s = time.monotonic() + SLOW_S
            is_slow = waveform[0] == SLOW or len(waveform) == round(SLOW_RECORDING_S * SAMPLE_RATE)
            while is_slow and not future.cancelled() and time.monotonic() < deadline_s:
                time.sleep(0.02)
            self._count("", -1)
        if waveform[0] == EXIT:
            os._exit(1)
        if not future.set_running_or_notify_cancel():
            self._counts["engine_cancelled"] += 1
        elif waveform[0] == FAIL:
            future.set_exception(RecognitionError("x"))
        elif waveform[0] == STOP and self._once():
            future.set_exception(EngineStoppedError("x"))
        else:
            future.set_result(Completion(f"{self._node} {len(waveform)}"))
            self._counts["engine_chunks"] += 1

    def _count(self, name: str, change: int) -> None:
        with self._lock:
            self._running += change
            if name:
                self._counts[name] += 1
                self._stepped_rows += self._running

    def _once(self) -> bool:
        """Whether this is the first chunk that finds the engine stopped."""
        self._counts["engine_stopped"] += 1
        return self._counts["engine_stopped"] == 1


def make_spec(delay_s: float = 0.1, slots: int = 8, version: str = "1") -> ReplicaSpec:
    """Replicas that run a SleepingEngine; `version` is their model's revision as well."""
    return ReplicaSpec(partial(SleepingEngine, delay_s, slots), ("sleeping", version), f"{delay_s} {version}", 120.0)


def chunk(seconds: float = 1.0, first: float = 0.0) -> Waveform:
    """A chunk whose first sample is `first`."""
    waveform = np.zeros(round(seconds * 16_000), np.float32)
    waveform[0] = first
    return waveform
