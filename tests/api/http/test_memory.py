"""What an upload costs the gateway: the same memory, however long it is."""

import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import httpx
import pytest

from generated.v1 import transcription_pb2, transcription_pb2_grpc
from resources.config import PROJECT_ROOT
from tests.support.http_gateway import form, request_head
from tests.support.ports import free_port
from tests.support.process_stats import memory_bytes
from tests.support.processes import started
from tests.support.waiting import HANG_LIMIT_S, wait_until

MB = 1_000_000
SHORT, LONG = 1, 400  # MB


class Counting(transcription_pb2_grpc.TranscriptionServiceServicer):
    """Takes everything and keeps nothing; the text is the number of bytes."""

    def TranscribeAudioStream(
        self, request_iterator: Iterator[transcription_pb2.AudioChunk], context: grpc.ServicerContext
    ) -> transcription_pb2.TranscriptionResponse:
        size = sum(len(piece.chunk_data) for piece in request_iterator)
        return transcription_pb2.TranscriptionResponse(success=True, transcript=str(size))


@contextmanager
def gateway_alone() -> Iterator[tuple[int, int]]:
    """Port and process id of a gateway before a server that counts."""
    server = grpc.server(ThreadPoolExecutor(2))
    transcription_pb2_grpc.add_TranscriptionServiceServicer_to_server(Counting(), server)
    address, port = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", free_port()
    server.start()

    def is_listening() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/openapi.json").status_code == 200
        except httpx.TransportError:
            return False

    with started(PROJECT_ROOT, "-m", "api.http", "--grpc", address, "--port", str(port)) as process:
        wait_until(is_listening)
        yield port, process.pid
    server.stop(None)


def upload(port: int, size_mb: int, file_first: bool) -> None:
    body, content_type = form(*([] if file_first else [("model", "m")]), ("file", b"*"))
    head, tail = body.split(b"*")
    length = len(head) + size_mb * MB + len(tail)
    with socket.create_connection(("127.0.0.1", port), HANG_LIMIT_S) as connection:
        connection.sendall(request_head(content_type, f"Content-Length: {length}", "Connection: close") + head)
        for _ in range(size_mb):
            connection.sendall(bytes(MB))
        connection.sendall(tail)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert f'"text":"{size_mb * MB}"'.encode() in answer


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("file_first", [False, True], ids=["fields first", "file first"])
def test_long_upload_costs_no_more_memory_than_a_short_one(file_first: bool) -> None:
    with gateway_alone() as (port, pid):
        for _ in range(5):
            upload(port, SHORT, file_first)
        before_bytes = memory_bytes(pid, peak=True)
        upload(port, LONG, file_first)
        grown_bytes = memory_bytes(pid, peak=True) - before_bytes
        assert grown_bytes < LONG * MB / 20, f"{grown_bytes / MB:.1f} MB more for {LONG} MB"
