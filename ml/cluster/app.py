"""What a Serve configuration file names as `import_path`: the application, built of the file's `args`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import serve

from ml.cluster.client import ClusterOptions, make_spec
from ml.cluster.deployment import bind
from ml.cluster.replica import ReplicaSpec

SpecMaker = Callable[[dict[str, Any], ClusterOptions], ReplicaSpec]


def app(args: dict[str, Any]) -> serve.Application:
    """Build replicas of the model family `engine` (by default borealis); all other `args` are its options.

    The number of replicas and their resources are in the file under `deployments`.
    """
    options = ClusterOptions()
    model = {name: value for name, value in args.items() if name != "engine"}
    return bind(ENGINES[args.get("engine", "borealis")](model, options), options.scale)


def _borealis(args: dict[str, Any], options: ClusterOptions) -> ReplicaSpec:
    """`args` are the fields of ModelOptions, with those of GenerationOptions under `generation`."""
    from ml.borealis.config import GenerationOptions
    from ml.borealis.load import ModelOptions, load_engine

    generation = GenerationOptions(**args.get("generation", {}))
    model = ModelOptions(**{**args, "cache_dir": Path(args["cache_dir"]), "generation": generation})
    return make_spec(load_engine, model, options)


def _whisper(args: dict[str, Any], options: ClusterOptions) -> ReplicaSpec:
    """`args` are the fields of WhisperOptions."""
    from ml.whisper.load import WhisperOptions, load_engine

    return make_spec(load_engine, WhisperOptions(**args), options)


def _onnx(args: dict[str, Any], options: ClusterOptions) -> ReplicaSpec:
    """`args` are the fields of OnnxOptions."""
    from ml.onnx.load import OnnxOptions, load_engine

    return make_spec(load_engine, OnnxOptions(**args), options)


ENGINES: dict[str, SpecMaker] = {"borealis": _borealis, "whisper": _whisper, "onnx": _onnx}
