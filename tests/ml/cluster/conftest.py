"""Without requirements-ray.txt there is nothing to test here."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("ray") else ["test_*.py"]
