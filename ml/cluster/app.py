"""What a Serve configuration file names as `import_path`: the application, built of the file's `args`."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from ray import serve

from ml.borealis.config import GenerationOptions
from ml.borealis.load import ModelOptions, load_engine
from ml.cluster.client import ClusterOptions
from ml.cluster.deployment import application
from ml.cluster.replica import ReplicaSpec


def app(args: dict[str, Any]) -> serve.Application:
    """`args` are the fields of ModelOptions, with those of GenerationOptions under `generation`.

    How many replicas there are, and what each gets, the file says under `deployments`.
    """
    generation = GenerationOptions(**args.get("generation", {}))
    model = ModelOptions(**{**args, "cache_dir": Path(args["cache_dir"]), "generation": generation})
    options = ClusterOptions()
    return application(replica_spec(model, options), options.scale)


def replica_spec(model: ModelOptions, options: ClusterOptions) -> ReplicaSpec:
    """Replicas around the engine that runs `model`."""
    folder = Path(model.name)
    name = folder.name if folder.is_dir() else model.name
    version = hashlib.sha256(repr((model, options.scale, options.silence_limit_s)).encode()).hexdigest()[:16]
    return ReplicaSpec(partial(load_engine, model), (name, model.revision or ""), version, options.silence_limit_s)
