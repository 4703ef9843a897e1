"""What replicas and their clients send each other, and the figures that come of it. Needs no Ray."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ml.interfaces import Capabilities
from ml.transcript import Completion

APPLICATION, DEPLOYMENT = "borealis", "replica"  # on the cluster, unless another application is named
CLUSTER_GAUGES = ("cluster_replicas", "cluster_chunks", "cluster_retries")  # beside those of the engines


@dataclass(frozen=True)
class ReplicaStatus:
    """A replica's answer when it is polled."""

    replica: str
    node: str
    model: tuple[str, str]  # name and revision
    version: str  # of its ReplicaSpec
    max_chunk_s: float  # longest chunk that its model takes
    capabilities: Capabilities  # of its model
    gauges: dict[str, float]


@dataclass(frozen=True)
class Answer:
    """The outcome of a chunk: its completion, or None where the model failed."""

    completion: Completion | None = None
    stopped: bool = False  # the replica is stopping: another one may answer


COUNTER_PREFIX = "engine_"  # such figures are totals since a replica's start


class MetricsAggregator:
    """Adds up the latest figures of all replicas; the totals of those that are gone stay in."""

    def __init__(self) -> None:
        self._latest: dict[str, ReplicaStatus] = {}
        self._present: frozenset[str] = frozenset()

    def update(self, statuses: Iterable[ReplicaStatus]) -> None:
        """Take over the status of every replica that is there now."""
        found = {status.replica: status for status in statuses}
        self._latest = {**self._latest, **found}
        self._present = frozenset(found)

    def total(self) -> dict[str, float]:
        """The sum over replicas, and the mean of what is a mean."""
        sums: dict[str, float] = {}
        for status in list(self._latest.values()):
            for name, value in _countable(status.gauges, status.replica in self._present):
                sums[name] = sums.get(name, 0.0) + value
        steps = sums.get("engine_steps", 0.0)
        return {**sums, "mean_batch": sums.get("engine_stepped_rows", 0.0) / steps if steps else 0.0}


def _countable(gauges: Mapping[str, float], is_present: bool) -> Iterable[tuple[str, float]]:
    return ((name, value) for name, value in gauges.items() if is_present or name.startswith(COUNTER_PREFIX))
