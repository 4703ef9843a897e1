"""Retries a call while the server is unavailable, at the pace that the server asks for."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

RETRY_PUSHBACK_TRAILER = "grpc-retry-pushback-ms"

_TLS_FAILURES = ("handshake", "CERTIFICATE_VERIFY_FAILED", "Hostname Verification Check", "SSL_ERROR")
_T = TypeVar("_T")


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how soon a call that met UNAVAILABLE is repeated; a transcription has no side effects.

    gRPC's own retries do not suffice: they end with the first response header, which a server may send before it
    finds itself overloaded, and they keep everything sent in memory. Here the file is read again.
    """

    max_attempts: int = 5  # including the first; 1 turns retries off
    initial_backoff_s: float = 0.5
    max_backoff_s: float = 5.0
    backoff_multiplier: float = 2.0

    def pause_s(self, attempts_made: int, error: grpc.RpcError) -> float | None:
        """Seconds until the next attempt; None if there is to be none.

        The server's pushback takes precedence, as in gRPC proposal A6 (client retries): anything but a non-negative
        number of milliseconds means "do not retry".
        """
        if attempts_made >= self.max_attempts or error.code() is not grpc.StatusCode.UNAVAILABLE:
            return None
        if is_tls_failure(error):
            return None  # a bad certificate stays bad
        pushback = _pushback(error)
        if pushback is not None:
            return int(pushback) / 1000 if pushback.isdecimal() else None
        backoff_s = self.initial_backoff_s * self.backoff_multiplier ** (attempts_made - 1)
        return min(backoff_s, self.max_backoff_s) * random.uniform(0.8, 1.2)  # jitter: clients spread out


def with_retries(
    attempt: Callable[[float | None], _T], policy: RetryPolicy, timeout_s: float | None, closed: threading.Event
) -> _T:
    """Call `attempt` with the seconds left until it succeeds; repeat as `policy` says, until `closed`.

    Raises:
        grpc.RpcError: of the last attempt. An attempt that could begin only after `timeout_s` is not waited for.
    """
    deadline_s = float("inf") if timeout_s is None else time.monotonic() + timeout_s
    attempts_made = 0
    while True:
        left_s = deadline_s - time.monotonic()
        try:
            return attempt(None if timeout_s is None else max(left_s, 0.0))
        except grpc.RpcError as error:
            attempts_made += 1
            pause_s = policy.pause_s(attempts_made, error)
            if pause_s is None or time.monotonic() + pause_s >= deadline_s or closed.wait(pause_s):
                raise


def _pushback(error: grpc.RpcError) -> str | None:
    trailers: Any = error.trailing_metadata() or ()
    return next((str(value) for key, value in trailers if key == RETRY_PUSHBACK_TRAILER), None)


def is_tls_failure(error: grpc.RpcError) -> bool:
    """Whether the call failed in the TLS handshake. gRPC shows that only in the text of the error."""
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        return False
    return any(sign in (error.details() or "") for sign in _TLS_FAILURES)
