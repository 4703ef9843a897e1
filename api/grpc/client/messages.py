"""What the command line says to people: one line about a failed call, and the figures of one that went well."""

import sys

import grpc

from api.grpc.client.responses import NO_ERROR_CODE, error_code
from api.grpc.client.retry import is_tls_failure
from generated.v1.transcription_pb2 import TranscriptionResponse

_HINTS = {
    grpc.StatusCode.UNAVAILABLE: "сервер недоступен или ещё не готов, проверьте, что он запущен (python start.py)",
    grpc.StatusCode.DEADLINE_EXCEEDED: "ответ не получен за отведённое время (--timeout)",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "файл слишком велик или сервер занят; большие файлы отправляйте с --stream",
    grpc.StatusCode.UNIMPLEMENTED: "по этому адресу отвечает другой сервис",
    grpc.StatusCode.UNAUTHENTICATED: "сервер не пускает без верного токена (TRANSCRIPTION_TOKEN или --token)",
    grpc.StatusCode.CANCELLED: "вызов отменён",
}
_DEFAULT_HINT = "вызов не удался"
_TLS_HINTS = (  # the first whose sign is in gRPC's words
    ("CERTIFICATE_VERIFY_FAILED", "сертификат сервера не принят, проверьте --ca"),
    ("Hostname Verification Check", "сертификат сервера выдан на другое имя, проверьте --address"),
    ("WRONG_VERSION_NUMBER", "сервер говорит без TLS, уберите --tls, --ca и --cert"),
    ("security handshaker", "файл из --ca, --cert или --key испорчен, либо ключ не от этого сертификата"),
    ("", "соединение TLS не установлено, проверьте --ca, --cert и --key"),
)
_CLOSED_HINT = "сервер закрыл соединение: возможно, ему нужен TLS (--tls, --ca) или сертификат клиента (--cert, --key)"


def describe(error: grpc.RpcError, address: str) -> str:
    """One line about a failed call: its status, what to do, and the server's own words."""
    status, details = error.code(), " ".join(str(error.details() or "").split())
    code = error_code(error)
    named = status.name if code == NO_ERROR_CODE else f"{status.name}, {code}"
    return f"{address}: {_hint(error, details)} [{named}] {details}".rstrip()


def figures(response: TranscriptionResponse) -> list[str]:
    """The lines about one file that was transcribed."""
    stats = response.stats
    return [
        f"Время обработки: {response.processing_time:.2f} сек",
        f"Длительность аудио: {response.audio_duration:.2f} сек",
        f"Скорость: {stats.speed_factor:.1f}x от реального времени",
        f"Слов: {stats.word_count}, Символов: {stats.char_count}",
    ]


def say(line: str, exit_code: int = 0) -> int:
    """Prints to stderr, which carries all but the transcripts; returns `exit_code`."""
    print(line, file=sys.stderr)
    return exit_code


def protect_console() -> None:
    """A console that cannot show a sign must not lose the rest of the line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _hint(error: grpc.RpcError, details: str) -> str:
    if is_tls_failure(error):
        return next(hint for sign, hint in _TLS_HINTS if sign in details)
    if error.code() is grpc.StatusCode.UNAVAILABLE and "Socket closed" in details:
        return _CLOSED_HINT
    return _HINTS.get(error.code(), _DEFAULT_HINT)
