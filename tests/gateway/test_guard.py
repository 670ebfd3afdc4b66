"""Who may call: names of this machine, and beyond it only holders of a key."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.harness.processes import CloudProcess, GatewayProcess
from edge_client.gateway.config import KEY_VARIABLE
from tests import commands
from tests.gateway.asking import about, call
from tests.gateway.conftest import MODEL


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:9000", 200),
        ("127.0.0.1:1", 200),
        ("127.8.9.1", 200),
        ("[::1]:8080", 200),
        ("evil.example", 403),
        ("evil.example:8080", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("192.168.0.7", 403),
        ("localhost:80@evil.example", 403),
    ],
)
def test_the_host_header_names_this_machine(
    gateway: GatewayProcess, host: str, status: int
) -> None:
    for path in ("/v1/models", "/healthz"):
        assert call(gateway.url + path, Host=host).status == status


def test_pages_of_other_sites_are_not_answered(gateway: GatewayProcess) -> None:
    asked = {"Origin": "https://evil.example", "Access_Control_Request_Method": "POST"}
    preflight = call(f"{gateway.url}/v1/chat/completions", method="OPTIONS", **asked)
    assert preflight.status == 405
    assert not [name for name in preflight.headers if name.lower().startswith("access-control")]
    simple = call(f"{gateway.url}/v1/chat/completions", b"{}", Content_Type="text/plain", **asked)
    assert simple.status == 415


def test_beyond_loopback_a_key_is_wanted(bundle_directory: Path) -> None:
    command = [sys.executable, "-m", "edge_client.cli", "serve", "--host=0.0.0.0", "--port=0"]
    done = commands.run(
        [*command, f"--bundle={bundle_directory}"],
        timeout=100,
    )
    assert done.returncode == 1
    assert "expected an API key to listen beyond loopback, got host '0.0.0.0'" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_key_beyond_loopback_the_host_header_is_looked_at_too(
    cloud: CloudProcess, bundle_directory: Path
) -> None:
    options = ("--host=0.0.0.0", "--keyless=true")
    with GatewayProcess(cloud.target, bundle_directory, *options) as gateway:
        assert call(f"{gateway.url}/v1/models", Host="localhost:8080").status == 200
        assert call(f"{gateway.url}/v1/models", Host="evil.example").status == 403


def test_a_key_from_the_environment_and_any_host(
    cloud: CloudProcess, bundle_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sk-for-this-test")
    options = ("--host=0.0.0.0", f"--model_name={MODEL}")
    with GatewayProcess(cloud.target, bundle_directory, *options) as gateway:
        named = {"Host": "camera.example", "Authorization": "Bearer sk-for-this-test"}
        body = {"model": MODEL, "messages": about(), "max_tokens": 2}
        assert call(f"{gateway.url}/v1/chat/completions", body, **named).status == 200
        for wrong in ("", "Basic sk-for-this-test", "Bearer", "Bearer sk-\xe9", "Bearer sk-for"):
            refused = call(f"{gateway.url}/v1/chat/completions", body, Authorization=wrong)
            assert refused.status == 401
            assert refused.error["code"] == "invalid_api_key"
            assert refused.headers["WWW-Authenticate"] == "Bearer"


def test_an_address_that_is_taken(gateway: GatewayProcess, bundle_directory: Path) -> None:
    taken = GatewayProcess("127.0.0.1:1", bundle_directory, f"--port={gateway.port}")
    with pytest.raises(RuntimeError, match=r"expected to listen on .*choose another"), taken:
        pass
