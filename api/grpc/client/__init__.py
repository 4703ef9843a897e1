"""The Python client: `TranscriptionClient` and `python -m api.grpc.client`. Imports nothing of the server."""

from api.grpc.client.client import TranscriptionClient
from api.grpc.client.responses import IncompleteAnswerError, TranscriptionRefusedError
from api.grpc.client.retry import RetryPolicy

__all__ = ["IncompleteAnswerError", "RetryPolicy", "TranscriptionClient", "TranscriptionRefusedError"]
