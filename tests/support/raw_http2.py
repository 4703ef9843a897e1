"""Calls made frame by frame, in ways in which no gRPC client would make them."""

import socket
import struct
from collections.abc import Callable
from types import TracebackType

from tests.support.waiting import HANG_LIMIT_S

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING = 0, 1, 3, 4, 6
_ACK, _END_STREAM, _END_HEADERS = 0x1, 0x1, 0x4
_INITIAL_WINDOW_SIZE = 4  # a setting's number
_OPAQUE = b"received"  # the eight bytes of our own ping

Frame = tuple[int, int, bytes]
"""Kind, flags and payload."""


class RawCall:
    """A connection on which one call has begun."""

    def __init__(self, port: int, method: str, data: bytes, ends: bool = False, settings: bytes = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=HANG_LIMIT_S)
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": f"127.0.0.1:{port}",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        self._block = b"".join(_literal(name, value) for name, value in headers.items())
        self._call = data, _END_STREAM if ends else 0
        self.socket.sendall(_PREFACE + _frame(_SETTINGS, 0, settings))
        self.begin(1)

    def begin(self, stream: int) -> None:
        """Make the same call again on the same connection; streams have odd and growing numbers."""
        data, flags = self._call
        self.socket.sendall(_frame(_HEADERS, _END_HEADERS, self._block, stream) + _frame(_DATA, flags, data, stream))

    def __enter__(self) -> "RawCall":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def wait_until_received(self) -> None:
        """Wait until the server has received every frame sent so far: it answers a ping in its turn."""
        self.socket.sendall(_frame(_PING, 0, _OPAQUE))
        self._read_until(lambda frame: frame == (_PING, _ACK, _OPAQUE))

    def wait_until_a_call_ended(self) -> None:
        """Wait until the server has reset one of the calls that have begun."""
        self._read_until(lambda frame: frame[0] == _RST_STREAM)

    def wait_until_ended(self) -> None:
        """Keep the connection alive, as a client does, until the server ends it."""
        try:
            while frame := self._read_frame():
                self._acknowledge(*frame)
        except ConnectionError:
            pass

    def _read_until(self, is_awaited: Callable[[Frame], bool]) -> None:
        while (frame := self._read_frame()) and not is_awaited(frame):
            self._acknowledge(*frame)
        assert frame, "the server closed the connection"

    def _acknowledge(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self.socket.sendall(_frame(_SETTINGS, _ACK))
        if kind == _PING and not flags & _ACK:
            self.socket.sendall(_frame(_PING, _ACK, payload))

    def _read_frame(self) -> Frame | None:
        """Return the next frame's kind, flags and payload, or None at the end of the connection."""
        head = self._read(9)
        if not head:
            return None
        return head[3], head[4], self._read(int.from_bytes(head[:3]))

    def _read(self, n_bytes: int) -> bytes:
        data = b""
        while len(data) < n_bytes:
            piece = self.socket.recv(n_bytes - len(data))
            if not piece:
                return b""
            data += piece
        return data


class HalfCall(RawCall):
    """A unary call's headers, and the first bytes of a message that never ends."""

    def __init__(self, port: int, method: str, claimed_bytes: int = 1000) -> None:
        super().__init__(port, method, struct.pack(">BI", 0, claimed_bytes) + b"half")


class NonReadingCall(RawCall):
    """A complete call whose client reads nothing of the answer."""

    def __init__(self, port: int, method: str, *messages: bytes) -> None:
        data = b"".join(struct.pack(">BI", 0, len(message)) + message for message in messages)
        super().__init__(port, method, data, ends=True, settings=struct.pack(">HI", _INITIAL_WINDOW_SIZE, 0))


def _frame(kind: int, flags: int, payload: bytes = b"", stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    """Return a header that is neither compressed nor indexed (RFC 7541, 6.2.2); name and value below 127 bytes."""
    return b"\0" + b"".join(bytes([len(part)]) + part.encode() for part in (name, value))
