"""What replicas and fronts say to each other; needs nothing of Ray."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ml.transcript import Completion


@dataclass(frozen=True)
class ReplicaStatus:
    """What a replica says of itself when it is asked."""

    replica: str
    node: str
    model: tuple[str, str]  # name and revision
    version: str  # of what it is made of
    figures: dict[str, float]


@dataclass(frozen=True)
class Answer:
    """The outcome of a chunk: its completion, or None where the model failed."""

    completion: Completion | None = None
    stopped: bool = False  # the replica is stopping: another one may answer


ONLY_GROW = "engine_"  # such figures are sums since a replica's start


class MetricsAggregator:
    """Keeps the latest word of every replica; those that have gone stay in what only grows."""

    def __init__(self) -> None:
        self._latest: dict[str, ReplicaStatus] = {}
        self._here: frozenset[str] = frozenset()

    def take(self, pulses: Iterable[ReplicaStatus]) -> None:
        """Hears from all replicas that are there now."""
        heard = {pulse.replica: pulse for pulse in pulses}
        self._latest = {**self._latest, **heard}
        self._here = frozenset(heard)

    def total(self) -> dict[str, float]:
        """The sum over replicas, and the mean of what is a mean."""
        sums: dict[str, float] = {}
        for pulse in list(self._latest.values()):
            for name, value in _counted(pulse.figures, pulse.replica in self._here):
                sums[name] = sums.get(name, 0.0) + value
        steps = sums.get("engine_steps", 0.0)
        return {**sums, "mean_batch": sums.get("engine_stepped_rows", 0.0) / steps if steps else 0.0}


def _counted(figures: Mapping[str, float], is_here: bool) -> Iterable[tuple[str, float]]:
    return ((name, value) for name, value in figures.items() if is_here or name.startswith(ONLY_GROW))
