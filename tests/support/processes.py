"""Runs the project's entry points as processes of their own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.waiting import HANG_LIMIT_S, wait_until

START_LIMIT_S = 3 * HANG_LIMIT_S  # imports of torch and a model to load, on a busy machine
CHANNEL_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
Health = health_pb2.HealthCheckResponse


def environment(**values: str) -> dict[str, str]:
    """Return this process's environment with no settings of the service but `values`."""
    kept = ("PATH", "HOME", "LANG", "SYSTEMROOT", "TEMP", "TMP", "USERPROFILE")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PYTHONIOENCODING": "utf-8"} | values


def run(root: Path, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run `python ARGUMENTS` in `root` until it ends."""
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
    """Run `python ARGUMENTS` in `root` for the length of the context."""
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


def wait_for(channel: grpc.Channel, wanted: "Health.ServingStatus", process: "subprocess.Popen[Any]") -> None:
    """Wait until the health service answers `wanted`; fail if the process ends before."""
    stub = health_pb2_grpc.HealthStub(channel)

    def answers() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"the server ended with code {process.returncode}: {process.communicate()}")
        try:
            return bool(stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == wanted)
        except grpc.RpcError:
            return False  # not listening yet

    wait_until(answers, START_LIMIT_S)
