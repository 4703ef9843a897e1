"""Starts the service and its page with the best model at hand: `make web`, or `python -m tests.web`."""

import socket
import sys
from dataclasses import dataclass

import torch
from huggingface_hub import try_to_load_from_cache

from api.grpc.client.console import print_status, protect_console
from api.grpc.transcription_server import main as serve
from ml.whisper import weights
from resources.config import Settings
from tests.support.ports import free_port
from tests.support.speech import TINY_MODEL

PORT = 8080


@dataclass(frozen=True)
class Choice:
    """The model's flags for start.py, and a line about the model."""

    implementation: str
    model: str
    device: str
    about: str


def main() -> int:
    """Serve until Ctrl+C; return start.py's exit code."""
    protect_console()
    choice, port = choose(), PORT if _is_free(PORT) else free_port()
    print_status(f"🧠 {choice.about}")
    print_status(f"🌐 Откройте http://localhost:{port} - страница ждёт, пока модель загрузится. Остановка: Ctrl+C\n")
    model = ["--implementation", choice.implementation, "--model", choice.model, "--device", choice.device]
    return serve(["--host", "127.0.0.1", "--port", "0", "--http-port", str(port), *model])


def choose() -> Choice:
    """The published Borealis if it is downloaded and there is a GPU, else Whisper base, else the bundled model."""
    published = str(Settings.model_fields["model_name"].default)
    if torch.cuda.is_available() and isinstance(try_to_load_from_cache(published, "config.json"), str):
        return Choice("borealis", published, "cuda", f"Модель: {published} на GPU")
    if weights.main([]) == 0:
        return Choice("whisper", str(weights.DEFAULT_FOLDER), "cpu", "Модель: Whisper base на процессоре")
    about = "Модель: учебная, знает 371 слово, живую речь не распознаёт (resources/samples/demo.wav - распознаёт)"
    return Choice("borealis", str(TINY_MODEL), "cpu", about)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


if __name__ == "__main__":
    sys.exit(main())
