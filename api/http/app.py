"""The gateway's routes."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response, Security
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from api.http import live, schema
from api.http.body import Unread
from api.http.context import REQUEST_ID_HEADER, Gateway, Limits, metadata_of
from api.http.docs import add_docs
from api.http.errors import ApiError
from api.http.guard import Guard
from api.http.metrics import GatewayMetrics
from api.http.responses import ErrorResponse
from api.http.transcriptions import create_transcription
from api.http.upstream import Upstream

STATIC = Path(__file__).parent / "static"
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src blob:;"
    " connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_PAGE_HEADERS = {
    "content-security-policy": _PAGE_POLICY,
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "cache-control": "no-cache",
}


def build(
    connect: Callable[[], Upstream], limits: Limits, metrics: GatewayMetrics, allowed_origins: tuple[str, ...]
) -> tuple[ASGIApp, Guard]:
    """The application, and its outermost layer but for CORS; `connect` is called once the event loop runs."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        gateway.upstream = connect()
        yield
        await gateway.upstream.close()

    app = FastAPI(
        title="Transcription API",
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    gateway = Gateway(limits, metrics)
    app.state.gateway = gateway
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(Exception, _answer_bug)
    _add_routes(app)
    guard = Guard(app, gateway, allowed_origins)
    return (_with_cors(guard, allowed_origins) if allowed_origins else guard), guard


def _with_cors(app: ASGIApp, allowed_origins: tuple[str, ...]) -> ASGIApp:
    return CORSMiddleware(
        app,
        allow_origins=allowed_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", REQUEST_ID_HEADER],
        expose_headers=[REQUEST_ID_HEADER, "retry-after"],
    )


def _add_routes(app: FastAPI) -> None:
    bearer = [Security(HTTPBearer(auto_error=False))]  # for the description: the service itself checks the token
    app.add_api_route(
        "/v1/audio/transcriptions",
        create_transcription,
        methods=["POST"],
        summary="Transcribe a recording",
        description=schema.TRANSCRIPTION_TEXT,
        dependencies=bearer,
        response_class=Response,
        responses=schema.TRANSCRIPTION_ANSWERS,
        openapi_extra=schema.TRANSCRIPTION,
    )
    app.add_api_route("/v1/models", _models, methods=["GET"], dependencies=bearer, summary="The model that answers")
    app.add_api_route("/health", _health, methods=["GET"], summary="Whether the service takes calls")
    app.add_api_websocket_route(live.PATH, live.stream)
    app.add_api_route("/", _page, methods=["GET"], include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC))
    add_docs(app)


async def _models(request: Request) -> JSONResponse:
    gateway: Gateway = request.app.state.gateway
    name, revision = await gateway.upstream.model(metadata_of(request))
    model = {"id": name or "default", "object": "model", "created": 0, "owned_by": "local"}
    return JSONResponse({"object": "list", "data": [model | ({"revision": revision} if revision else {})]})


async def _health(request: Request) -> JSONResponse:
    gateway: Gateway = request.app.state.gateway
    is_serving = await gateway.upstream.is_serving()
    return JSONResponse({"status": "SERVING" if is_serving else "NOT_SERVING"}, 200 if is_serving else 503)


async def _page() -> FileResponse:
    return FileResponse(STATIC / "index.html", headers=_PAGE_HEADERS)


async def _answer_api_error(request: Request, error: Any) -> Response:
    return ErrorResponse(error, Unread.of(request.headers, request.receive))


async def _answer_bug(_request: Request, _error: Exception) -> Response:
    return ErrorResponse(ApiError(500, "INTERNAL"))  # the guard logs it


async def _answer_http_exception(request: Request, error: Any) -> Response:
    """What the framework itself refuses, in the shape of all other errors."""
    messages = {404: "Такого адреса нет: описание - на /docs", 405: "Этот адрес не знает такого метода"}
    code = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}.get(error.status_code, "INVALID_REQUEST")
    message = messages.get(error.status_code, "Запрос не принят")
    response = await _answer_api_error(request, ApiError(error.status_code, code, message))
    response.headers.update(error.headers or {})
    return response
