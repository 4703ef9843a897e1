"""What runs on a cluster's node: a Ray Serve replica around an engine of its own."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import ray
from ray import serve

from ml.cluster.messages import Answer, ReplicaStatus
from ml.errors import EngineStoppedError, RecognitionError
from ml.heap import tune_malloc
from ml.interfaces import ManagedEngine, RecognitionOptions

FULL_SCALE = 32768  # of 16-bit samples: what the decoder gives comes back exactly

Samples = npt.NDArray[np.int16]


@dataclass(frozen=True)
class ReplicaSpec:
    """What a replica runs. Replicas of equal specs are interchangeable."""

    make_engine: Callable[[], ManagedEngine]
    model: tuple[str, str]  # name and revision, for the response
    version: str  # differs where anything differs
    watchdog_timeout_s: float  # an engine without progress for longer is replaced


class Replica:
    """The deployment's class: Ray Serve makes one for each replica, in a process of its own."""

    def __init__(self, spec: ReplicaSpec) -> None:
        """Make the engine, which may take minutes. Raises what that raises: Serve then makes another attempt."""
        tune_malloc()
        self._spec = spec
        self._engine = spec.make_engine()

    async def recognise(self, samples: Samples, options: RecognitionOptions) -> Answer:
        """Return the completion of a chunk (N,). A cancelled call evicts the chunk from the engine."""
        waveform = samples.astype(np.float32)
        waveform /= FULL_SCALE
        try:  # fairness is the client's business: here chunks are served in order of arrival
            completion = await asyncio.wrap_future(self._engine.submit(waveform, object(), options))
            return Answer(completion)
        except EngineStoppedError:
            return Answer(stopped=True)
        except RecognitionError:
            return Answer()

    async def status(self) -> ReplicaStatus:
        """Return the replica's status. Raises RuntimeError where the engine does not work."""
        self.check_health()
        return ReplicaStatus(
            replica=serve.get_replica_context().replica_id.unique_id,
            node=ray.get_runtime_context().get_node_id(),
            model=self._spec.model,
            version=self._spec.version,
            max_chunk_s=self._engine.max_chunk_s,
            capabilities=self._engine.capabilities,
            gauges=dict(self._engine.gauges()),
        )

    def check_health(self) -> None:
        """Called by Serve, which replaces the replica when it raises RuntimeError."""
        if not self._engine.is_alive or self._engine.busy_without_progress_s > self._spec.watchdog_timeout_s:
            raise RuntimeError("the engine has broken down")

    def __del__(self) -> None:
        if hasattr(self, "_engine"):
            self._engine.close()
