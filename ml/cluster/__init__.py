"""The model on many machines: replicas on a Ray cluster, and the engine that sends them chunks.

Importing this package needs nothing of Ray; its modules do, but for `pulse` and `figures`.
"""

NAMES = ("borealis", "replica")  # of the application on the cluster, and of its deployment
FRONT_FIGURES = ("cluster_replicas", "cluster_chunks", "cluster_retries")  # beside those of the engine
