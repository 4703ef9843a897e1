"""What all requests of a gateway share, and what of a request goes on to the service."""

import re
import uuid
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from api.http.metrics import GatewayMetrics
from api.http.upstream import Metadata, Upstream

REQUEST_ID_HEADER = "x-request-id"
_REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)  # as the service takes them
_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True)
class Limits:
    """What one client, and all of them together, may take."""

    max_upload_bytes: int  # of one file
    idle_timeout_s: float  # that a client may send nothing, or take nothing of what it is sent
    max_requests: int  # under way at once


@dataclass
class Gateway:
    """The state behind the routes."""

    limits: Limits
    metrics: GatewayMetrics
    upstream: Upstream = field(init=False)  # from the start of the event loop on
    is_draining: bool = False


def identify(given: str) -> str:
    """The client's request id where it is a sensible one, else a new one."""
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def metadata_of(connection: HTTPConnection, token: str | None = None) -> Metadata:
    """The request's id and its bearer token (`token`, where it did not come as a header) for the call."""
    authorization = f"Bearer {token}" if token else connection.headers.get("authorization", "")
    given = (("authorization", authorization),) if _is_sendable(authorization) else ()
    return (*given, (REQUEST_ID_HEADER, connection.state.request_id))


def _is_sendable(authorization: str) -> bool:
    """gRPC takes only printable ASCII; what is not cannot be a token that the service knows."""
    return bool(authorization) and all(_TOKEN.fullmatch(part) for part in authorization.split())
