"""What replicas and fronts say to each other; needs nothing of Ray."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pulse:
    """What a replica says of itself when it is asked."""

    replica: str
    node: str
    model: tuple[str, str]  # name and revision
    version: str  # of what it is made of
    figures: dict[str, float]


@dataclass(frozen=True)
class Answer:
    """What became of a chunk: its text, or that the model fails over it, or that this replica is at its end."""

    text: str = ""
    failed: bool = False
    stopped: bool = False
