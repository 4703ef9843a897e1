"""What replicas are made of that run a model; the one module here that needs torch."""

import hashlib
from functools import partial
from pathlib import Path

from ml.borealis.loading import ModelOptions, load_engine
from ml.cluster.front import ClusterOptions
from ml.cluster.replica import Recipe


def recipe_of(model: ModelOptions, options: ClusterOptions) -> Recipe:
    """Replicas around the engine that runs `model`."""
    folder = Path(model.name)
    name = folder.name if folder.is_dir() else model.name
    version = hashlib.sha256(repr((model, options.scale, options.silence_limit_s)).encode()).hexdigest()[:16]
    return Recipe(partial(load_engine, model), (name, model.revision or ""), version, options.silence_limit_s)
