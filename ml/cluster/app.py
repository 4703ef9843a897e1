"""What a Serve configuration file names as `import_path`: the application, built of the file's `args`."""

from pathlib import Path
from typing import Any

from ray import serve

from ml.borealis.loading import ModelOptions
from ml.borealis.options import GenerationOptions
from ml.cluster.front import ClusterOptions
from ml.cluster.recipes import recipe_of
from ml.cluster.serving import application


def app(args: dict[str, Any]) -> serve.Application:
    """`args` are the fields of ModelOptions, with those of GenerationOptions under `generation`.

    How many replicas there are, and what each gets, the file says under `deployments`.
    """
    generation = GenerationOptions(**args.get("generation", {}))
    model = ModelOptions(**{**args, "cache_dir": Path(args["cache_dir"]), "generation": generation})
    options = ClusterOptions()
    return application(recipe_of(model, options), options.scale)
