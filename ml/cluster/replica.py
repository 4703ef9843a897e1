"""What runs on a cluster's node: a Ray Serve replica around one engine of its own."""

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import ray
from ray import serve

from ml.cluster.messages import Answer, ReplicaStatus
from ml.errors import EngineStoppedError, RecognitionError
from ml.heap import tune_malloc
from ml.interfaces import RecognitionOptions, Waveform
from ml.transcript import Completion

FULL_SCALE = 32768  # of 16-bit samples: what the decoder gives comes back exactly

Samples = npt.NDArray[np.int16]


class LocalEngine(Protocol):
    """What a replica needs of the engine it is made around; ml.engine.engine.Engine is one."""

    @property
    def is_alive(self) -> bool:
        """Whether it can still answer."""

    @property
    def busy_without_progress_s(self) -> float:
        """Seconds since it began what it is at; 0 while there is nothing to do."""

    def submit(
        self,
        waveform: Waveform,
        recording_id: Hashable = None,
        options: RecognitionOptions = RecognitionOptions(),  # noqa: B008 (frozen)
    ) -> "Future[Completion]":
        """See ml.interfaces.Engine."""

    def gauges(self) -> dict[str, float]:
        """What is going on, for metrics."""

    def close(self) -> None:
        """Ends it."""


@dataclass(frozen=True)
class ReplicaSpec:
    """What a replica is made of. Equal recipes make replicas that can stand in for each other."""

    make_engine: Callable[[], LocalEngine]
    model: tuple[str, str]  # name and revision, for the response
    version: str  # differs where anything differs
    silence_limit_s: float  # an engine that is silent at work for longer has broken down


class Replica:
    """The deployment's class: Ray Serve makes one for each replica, in a process of its own."""

    def __init__(self, recipe: ReplicaSpec) -> None:
        """Makes the engine, which may take minutes. Raises what that raises: Serve then makes another attempt."""
        tune_malloc()
        self._recipe = recipe
        self._engine = recipe.make_engine()

    async def recognise(self, samples: Samples, options: RecognitionOptions) -> Answer:
        """The text of a chunk (N,) of at most 30 s. When the call is cancelled, the chunk leaves the engine."""
        waveform = samples.astype(np.float32)
        waveform /= FULL_SCALE
        try:  # fairness is the fronts' business: here whoever comes first is first
            future = self._engine.submit(waveform, object(), options)
            completion = await asyncio.wrap_future(future)
            return Answer(completion)
        except EngineStoppedError:
            return Answer(stopped=True)
        except RecognitionError:
            return Answer()

    async def pulse(self) -> ReplicaStatus:
        """How it is. Raises RuntimeError where it is unwell."""
        self.check_health()
        replica, node = serve.get_replica_context().replica_id.unique_id, ray.get_runtime_context().get_node_id()
        return ReplicaStatus(replica, node, self._recipe.model, self._recipe.version, self._engine.gauges())

    def check_health(self) -> None:
        """Asked by Serve, which replaces the replica when it raises RuntimeError."""
        if not self._engine.is_alive or self._engine.busy_without_progress_s > self._recipe.silence_limit_s:
            raise RuntimeError("the engine has broken down")

    def __del__(self) -> None:
        if hasattr(self, "_engine"):
            self._engine.close()
