"""/docs: the interface, to be tried out in the browser, without a foreign address."""

from pathlib import Path

import fastapi_offline
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

_ASSETS = Path(fastapi_offline.__file__).parent / "static"
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Transcription API</title>
<link rel="icon" href="/static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/static/docs.js"></script>
</body>
</html>
"""
_POLICY = (  # Swagger UI sets styles of its own and draws its icons from data
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self';"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def add_docs(app: FastAPI) -> None:
    """Serve Swagger UI, whose files a package brings."""

    async def docs() -> HTMLResponse:
        return HTMLResponse(_PAGE, headers={"content-security-policy": _POLICY})

    app.add_api_route("/docs", docs, include_in_schema=False, response_class=HTMLResponse)
    app.mount("/docs/assets", StaticFiles(directory=_ASSETS))
