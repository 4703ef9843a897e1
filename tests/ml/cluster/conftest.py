"""Without requirements-ray.txt only the messages can be tested."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("ray") else ["test_cluster.py", "test_cluster_engine.py", "test_cluster_models.py"]
