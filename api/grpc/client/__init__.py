"""The Python client: `TranscriptionClient` and `python -m api.grpc.client`. Imports nothing of the server."""

from api.grpc.client.client import TranscriptionClient
from api.grpc.client.responses import IncompleteAnswerError, TranscriptionRefusedError
from api.grpc.client.retry import RetryPolicy
from generated.v1.transcription_pb2 import MIX, SEPARATE, TranscriptionOptions

__all__ = [
    "MIX",
    "SEPARATE",
    "IncompleteAnswerError",
    "RetryPolicy",
    "TranscriptionClient",
    "TranscriptionOptions",
    "TranscriptionRefusedError",
]
