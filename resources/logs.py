"""Sets the logs up: the documented format or JSON, with the request id in every line of a request."""

import logging
import sys
from contextvars import ContextVar

from pythonjsonlogger.json import JsonFormatter

DATE_FORMAT = "%Y-%m-%d %H:%M:%S"

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that the current thread works on; empty outside requests."""


class _RequestIdFilter(logging.Filter):
    """Gives every record the id of its request."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


class _SuffixFormatter(logging.Formatter):
    """Ends the lines of a request with its id."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        identity = getattr(record, "request_id", "")
        return f"{line} [{identity}]" if identity else line


def configure_logging(level: str, line_format: str, as_json: bool) -> None:
    """Sends every record of `level` and above to standard error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a console that cannot show a sign must not stop the work
    handler = logging.StreamHandler()
    handler.addFilter(_RequestIdFilter())
    handler.setFormatter(_json_formatter() if as_json else _SuffixFormatter(line_format, DATE_FORMAT))
    logging.basicConfig(level=level, handlers=[handler])


def _json_formatter() -> logging.Formatter:
    fields = {"asctime": "time", "levelname": "level", "name": "logger"}
    return JsonFormatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s %(request_id)s",
        rename_fields=fields,
        json_ensure_ascii=False,
    )
