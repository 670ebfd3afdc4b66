"""Runs the services of `docker-compose.yml` in a Docker engine and sends questions to them."""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple, Self

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "examples" / "scene.png"
KNOWN_GOOD = json.loads(IMAGE.with_suffix(".json").read_text())
SERVICES = ("cloud", "edge")
BUILD_SECONDS = 1500
START_SECONDS = 300


def ensure_engine() -> None:
    """Make sure that a Docker engine runs; start one with the command in `DOCKER_ENGINE_UP`.

    Raises:
        RuntimeError: no engine is reachable.
    """
    if _engine_answers():
        return
    command = os.environ.get("DOCKER_ENGINE_UP")
    if command:
        subprocess.run(shlex.split(command), check=True, timeout=BUILD_SECONDS)
    if not _engine_answers():
        raise RuntimeError(
            "expected a Docker engine, got none that `docker info` reaches; start one, or set "
            "DOCKER_ENGINE_UP to a command that starts one"
        )


def docker(*arguments: str, seconds: float = 60) -> str:
    """The standard output of a `docker` command.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    return _output(["docker", *arguments], None, seconds)


def compose_command() -> list[str]:
    """`docker-compose`, or the plug-in `docker compose` if the former is not installed."""
    return ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]


class Reply(NamedTuple):
    """A response of the gateway: the HTTP status and the JSON object."""

    status: int
    body: dict[str, Any]

    @property
    def answer(self) -> str:
        """The text of the answer."""
        return str(self.body["choices"][0]["message"]["content"])


class ComposePair:
    """Cloud and edge in the containers of a separate Compose project, on a free port.

    A context manager that removes the containers on exit. Nothing runs before `up`.

    Raises:
        RuntimeError: no engine is reachable.
    """

    def __init__(self) -> None:
        ensure_engine()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))  # the kernel chooses a free port
            self.port = int(probe.getsockname()[1])
        # A project name of this process only: it never touches containers that a user runs.
        self.project = f"avq-{os.getpid()}"
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = os.environ | {
            "COMPOSE_PROJECT_NAME": self.project,
            "PAGE_PORT": str(self.port),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def compose(self, *arguments: str, seconds: float = 120) -> str:
        """The standard output of a `docker-compose` command.

        Raises:
            subprocess.CalledProcessError: the command failed.
        """
        return _output([*compose_command(), *arguments], self._environment, seconds)

    def build(self) -> None:
        """Build the images that are missing or outdated."""
        self.compose("build", seconds=BUILD_SECONDS)

    def up(self) -> None:
        """Start the containers that do not run yet."""
        self.compose("up", "-d", seconds=START_SECONDS)

    def down(self) -> None:
        """Remove containers, networks and volumes, including the certificates in them."""
        self.compose("down", "--volumes", "--timeout", "10")

    def container(self, service: str) -> str:
        """The id of the container of a service."""
        return self.compose("ps", "-q", service).strip()

    def inspect(self, service: str) -> dict[str, Any]:
        """`docker inspect` of the container of a service."""
        details: dict[str, Any] = json.loads(docker("inspect", self.container(service)))[0]
        return details

    def run_in(
        self, service: str, *command: str, user: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the container of a service, by default as the image's user."""
        user_option = [f"--user={user}"] if user else []
        line = ["docker", "exec", *user_option, self.container(service), *command]
        return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)

    def wait_ready(self) -> None:
        """Wait until the gateway reaches the cloud.

        Raises:
            RuntimeError: it did not within `START_SECONDS`; the message holds the logs.
        """
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5):
                    return
            except OSError:  # includes HTTP errors
                time.sleep(0.2)
        raise RuntimeError(f"the pair is not ready: {self.compose('logs', '--no-color')}")

    def wait_healthy(self) -> None:
        """Wait until the engine's health checks pass for both services.

        Raises:
            RuntimeError: they did not within `START_SECONDS`.
        """
        end = time.monotonic() + START_SECONDS
        states: dict[str, str] = {}
        while time.monotonic() < end:
            states = {name: self.inspect(name)["State"]["Health"]["Status"] for name in SERVICES}
            if set(states.values()) == {"healthy"}:
                return
            time.sleep(1)
        raise RuntimeError(f"expected both services to be healthy, got {states}")

    def ask(self, *turns: tuple[str, str], question: str, seconds: float = 120) -> Reply:
        """Ask a question about the example image over plain HTTP.

        Args:
            turns: earlier questions with their answers.
            question: the new question.
            seconds: timeout.
        """
        uri = f"data:image/png;base64,{base64.b64encode(IMAGE.read_bytes()).decode()}"
        messages: list[dict[str, Any]] = []
        for earlier_question, answer in turns:
            messages += [
                {"role": "user", "content": earlier_question},
                {"role": "assistant", "content": answer},
            ]
        text = {"type": "text", "text": question}
        image = {"type": "image_url", "image_url": {"url": uri}}
        messages.append({"role": "user", "content": [text, image]})
        body = json.dumps({"model": self.model(), "messages": messages}).encode()
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=seconds) as response:
                return Reply(response.status, json.load(response))
        except urllib.error.HTTPError as error:
            # The error is also the response; closing it frees the connection.
            with error:
                return Reply(error.code, json.load(error))

    def model(self) -> str:
        """The name under which the gateway lists its model."""
        with urllib.request.urlopen(f"{self.url}/v1/models", timeout=30) as response:
            return str(json.load(response)["data"][0]["id"])


def _engine_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    completed = subprocess.run(["docker", "info"], capture_output=True, timeout=60, check=False)
    return completed.returncode == 0


def _output(command: list[str], environment: dict[str, str] | None, seconds: float) -> str:
    return subprocess.run(
        command,
        # Compose looks for its file there.
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=seconds,
        check=True,
    ).stdout
