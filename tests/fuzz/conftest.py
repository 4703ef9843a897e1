"""How long to fuzz: a little with every run of the tests, much more under `slow`."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fuzz",
    deadline=None,  # a decoder is a process, and the machine may be busy
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
