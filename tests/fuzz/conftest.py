"""The hypothesis profile of the fuzz tests: few examples in every run, many more under `slow`."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fuzz",
    deadline=None,  # a decoder is a process, and the machine may be busy
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
