"""The web page at `/`: static files, with headers that forbid content from other hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

FILES = Path(__file__).with_name("page")
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' blob: data:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # text can never become HTML, even by mistake
        "trusted-types 'none'",
    )
)
# The camera is allowed for the page alone; the cache is revalidated, as upgrades change the files.
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def add_page(app: FastAPI) -> None:
    """Serve the page at `/` and its files under `/page`."""

    @app.api_route("/", methods=["GET", "HEAD"])
    async def index() -> Response:
        """The page."""
        return FileResponse(FILES / "index.html", headers=HEADERS)

    app.mount("/page", _PageFiles(directory=FILES))


class _PageFiles(StaticFiles):
    """Static files with the headers of the page."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """The file, or 304 if the browser's copy is current."""
        response = super().file_response(*args, **options)
        response.headers.update(HEADERS)
        return response
