"""How text is drawn from the model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GenerationOptions:
    """How text is drawn from the model; the sampling values are those of the model card."""

    max_new_tokens: int = 350  # the longest answer to a chunk, in tokens
    do_sample: bool = False  # greedy, hence deterministic
    temperature: float = 0.2  # this and the following count only when sampling
    top_p: float = 0.9
    top_k: int = 50
    seed: int = 0
