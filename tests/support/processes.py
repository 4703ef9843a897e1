"""Runs the project's entry points as processes of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

START_LIMIT_S = 120
Health = health_pb2.HealthCheckResponse


def environment(**values: str) -> dict[str, str]:
    """This process's environment with no settings of the service but `values`."""
    kept = ("PATH", "HOME", "LANG", "SYSTEMROOT", "TEMP", "TMP", "USERPROFILE")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PYTHONIOENCODING": "utf-8"} | values


def run(root: Path, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Runs `python ARGUMENTS` in `root` until it ends."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=environment(**settings),
        capture_output=True,
        encoding="utf-8",
        timeout=START_LIMIT_S,
        check=False,
    )


@contextmanager
def started(root: Path, *arguments: str, **settings: str) -> Iterator["subprocess.Popen[str]"]:
    """Runs `python ARGUMENTS` in `root` for the length of the context."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=root,
        env=environment(**settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(channel: grpc.Channel, wanted: "Health.ServingStatus", process: "subprocess.Popen[str]") -> None:
    """Waits until the health service answers `wanted`."""
    stub = health_pb2_grpc.HealthStub(channel)
    deadline_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline_s:
        assert process.poll() is None, process.communicate()
        try:
            if stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == wanted:
                return
        except grpc.RpcError:
            pass  # not listening yet
        time.sleep(0.1)
    raise AssertionError("the server did not become ready")
