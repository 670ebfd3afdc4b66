"""The endpoint filter of an engine replica: which requests reach vLLM's server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request

from cloud_server.vllm_plugin import ARCHITECTURE, BUNDLE
from cloud_server.vllm_plugin.__main__ import command
from cloud_server.vllm_plugin.endpoint_filter import GENERATE, MAX_BODY_BYTES, EndpointFilter

GOOD = {"request_id": "r", "token_ids": [1], "content_parts": [], "stream": True}


def served() -> FastAPI:
    app = FastAPI()

    @app.get("/health")
    async def health() -> str:
        return "well"

    @app.post("/{path:path}")
    async def everything(path: str, request: Request) -> Any:
        return {"path": path, "body": await request.json()}

    app.add_middleware(EndpointFilter)
    return app


def sent(method: str, path: str, content: bytes = b"") -> httpx2.Response:
    async def run() -> httpx2.Response:
        transport = httpx2.ASGITransport(served())
        async with httpx2.AsyncClient(transport=transport, base_url="http://engine") as client:
            return await client.request(method, path, content=content)

    return asyncio.run(run())


def test_questions_and_health_checks_pass() -> None:
    answer = sent("POST", GENERATE, json.dumps(GOOD).encode())
    assert answer.status_code == 200
    assert answer.json()["body"] == GOOD
    assert sent("GET", "/health").json() == "well"


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/pause", "/tokenize", "/invocations", "/"]
)
def test_other_paths_are_refused(path: str) -> None:
    assert sent("POST", path, b"{}").status_code == 404


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(GOOD | {"features": {"mm_hashes": {}}}).encode(),
        json.dumps(GOOD | {"kv_transfer_params": {}}).encode(),
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"token_ids": [' + b"1," * MAX_BODY_BYTES + b"1]}",
    ],
)
def test_bodies_that_are_not_questions_are_refused(content: bytes) -> None:
    assert sent("POST", GENERATE, content).status_code == 400


def test_the_command_names_bundle_and_architecture(tmp_path: Path) -> None:
    arguments = command(tmp_path, "checkpoint", ["--port=1"])
    overrides = json.loads(arguments[arguments.index("--hf-overrides") + 1])
    assert overrides == {"architectures": [ARCHITECTURE], BUNDLE: str(tmp_path)}
    assert arguments[-1] == "--port=1"
    assert "--enable-mm-embeds" not in arguments
