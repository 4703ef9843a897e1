"""The health check of the container, run as the container engine runs it, against a server in each state."""

import os
import subprocess
import sys
import threading

from api.grpc.server import GrpcServer
from resources.config import PROJECT_ROOT
from tests.conftest import settings_for_tests
from tests.repo.test_deploy import health_check
from tests.support.fault_services import SlowToStart
from tests.support.ports import free_port
from tests.support.waiting import HANG_LIMIT_S


def exit_code(port: int) -> int:
    program, *arguments = health_check()
    assert program == "python"
    environment = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    environment |= {"SERVER_PORT": str(port), "GRPC_VERBOSITY": "NONE"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=environment, cwd=PROJECT_ROOT, capture_output=True, timeout=HANG_LIMIT_S
    ).returncode


def test_container_is_healthy_exactly_while_the_server_is_serving() -> None:
    service = SlowToStart()
    server = GrpcServer(service, settings_for_tests(auth_token_hashes="0" * 64))
    thread = threading.Thread(target=server.start)
    thread.start()
    try:
        assert exit_code(server.port) == 1
        service.may_start.set()
        thread.join()
        assert exit_code(server.port) == 0
    finally:
        service.may_start.set()
        thread.join()
        server.stop()


def test_container_without_a_server_is_not_healthy() -> None:
    assert exit_code(free_port()) != 0
