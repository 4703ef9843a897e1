"""The implementations to choose from."""

from services.transcription.implementations.borealis_service import BorealisTranscriptionService

__all__ = [
    "BorealisTranscriptionService",
]
