"""Measures what HTTP adds to gRPC: `python -m api.http.overhead FILE --grpc HOST:PORT --http HOST:PORT` prints JSON.

The same recording is sent by both in turn, one at a time and then many at once, each sender over a connection of its
own that stays open.
"""

import argparse
import http.client
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from api.grpc.client import TranscriptionClient

_BOUNDARY = "overhead"
WARM_UP = 2  # requests of each

Send = Callable[[], object]
OpenSender = Callable[[], AbstractContextManager[Send]]


def main(arguments: list[str] | None = None) -> int:
    """Print the latencies of single requests and the seconds of each burst, by strategy."""
    parser = argparse.ArgumentParser(prog="python -m api.http.overhead")
    parser.add_argument("file", type=Path)
    parser.add_argument("--grpc", required=True, metavar="HOST:PORT")
    parser.add_argument("--http", required=True, metavar="HOST:PORT")
    parser.add_argument("--requests", type=int, default=50, help="of each, one at a time (50)")
    parser.add_argument("--at-once", type=int, default=32, help="senders of a burst (32)")
    parser.add_argument("--bursts", type=int, default=3, help="of each (3)")
    flags = parser.parse_args(arguments)
    opened: dict[str, OpenSender] = {
        "grpc": lambda: _grpc(flags.grpc, flags.file),
        "http": lambda: _http(flags.http, flags.file),
    }
    found: dict[str, dict[str, list[float]]] = {name: {"latencies_s": [], "bursts_s": []} for name in opened}
    with opened["grpc"]() as by_grpc, opened["http"]() as by_http:
        for number in range(WARM_UP + flags.requests):
            for name, send in (("grpc", by_grpc), ("http", by_http)):
                latency_s = _timed(send)
                if number >= WARM_UP:
                    found[name]["latencies_s"].append(latency_s)
    for _ in range(flags.bursts):
        for name, open_sender in opened.items():
            found[name]["bursts_s"].append(_burst(open_sender, flags.at_once))
    json.dump(found, sys.stdout)
    return 0


def _burst(open_sender: OpenSender, senders: int) -> float:
    """Seconds until each of `senders` has been answered twice."""

    def send_twice(_number: int) -> None:
        with open_sender() as send:
            send()
            send()

    with ThreadPoolExecutor(senders) as pool:
        return _timed(lambda: list(pool.map(send_twice, range(senders))))


def _timed(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


@contextmanager
def _grpc(address: str, file: Path) -> Iterator[Send]:
    with TranscriptionClient(address) as client:
        yield lambda: client.transcribe_stream(file)


@contextmanager
def _http(address: str, file: Path) -> Iterator[Send]:
    connection = http.client.HTTPConnection(address)
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="model"\r\n\r\nany\r\n'
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{file.name}"\r\n\r\n'
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}

    def send() -> None:
        body = head.encode() + file.read_bytes() + f"\r\n--{_BOUNDARY}--\r\n".encode()
        connection.request("POST", "/v1/audio/transcriptions", body, headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise SystemExit(answer.decode())

    try:
        yield send
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
