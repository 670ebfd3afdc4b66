"""The pair of `docker-compose.yml`: an engine to run it, the containers, and questions to them."""

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
PICTURE = ROOT / "examples" / "scene.png"
KNOWN_GOOD = json.loads(PICTURE.with_suffix(".json").read_text())
SERVICES = ("cloud", "edge")
BUILD_SECONDS = 1500
START_SECONDS = 300


def ensure_engine() -> None:
    """Find a Docker engine, or start one with the command that `DOCKER_ENGINE_UP` holds.

    Raises:
        RuntimeError: there is none.
    """
    if _engine_answers():
        return
    command = os.environ.get("DOCKER_ENGINE_UP")
    if command:
        subprocess.run(shlex.split(command), check=True, timeout=BUILD_SECONDS)
    if not _engine_answers():
        raise RuntimeError(
            "expected a Docker engine, got none that `docker info` reaches; start one, or set "
            "DOCKER_ENGINE_UP to a command that does"
        )


def docker(*arguments: str, seconds: float = 60) -> str:
    """What a `docker` command printed.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    return _output(["docker", *arguments], None, seconds)


def compose_command() -> list[str]:
    """`docker-compose`, or the plug-in where that is what there is."""
    return ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]


class Reply(NamedTuple):
    """What the gateway answered: the HTTP status and the JSON object."""

    status: int
    body: dict[str, Any]

    @property
    def answer(self) -> str:
        """The answer's text."""
        return str(self.body["choices"][0]["message"]["content"])


class ComposePair:
    """Cloud and edge in containers of their own project, on a free port; removed at the end.

    Images are built where they are missing or old. Nothing is up before `up`.

    Raises:
        RuntimeError: there is no engine, or the gateway does not come up; the message holds the
            logs.
    """

    def __init__(self) -> None:
        ensure_engine()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
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
        """What `docker-compose` printed.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        return _output([*compose_command(), *arguments], self._environment, seconds)

    def build(self) -> None:
        """Make the images."""
        self.compose("build", seconds=BUILD_SECONDS)

    def up(self) -> None:
        """Start what is not running."""
        self.compose("up", "-d", seconds=START_SECONDS)

    def down(self) -> None:
        """Remove containers, networks and volumes, certificates with them."""
        self.compose("down", "--volumes", "--timeout", "10")

    def container(self, service: str) -> str:
        """The id of a service's container."""
        return self.compose("ps", "-q", service).strip()

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine knows of a service's container."""
        found: dict[str, Any] = json.loads(docker("inspect", self.container(service)))[0]
        return found

    def run_in(
        self, service: str, *command: str, user: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """A command in a service's container, by default as its own user."""
        named = [f"--user={user}"] if user else []
        line = ["docker", "exec", *named, self.container(service), *command]
        return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)

    def wait_ready(self) -> None:
        """Until the gateway reaches the cloud."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=5):
                    return
            except OSError:  # HTTP errors are of this kind, too
                time.sleep(0.2)
        raise RuntimeError(f"the pair is not ready: {self.compose('logs', '--no-color')}")

    def wait_healthy(self) -> None:
        """Until the engine's own checks say so of both."""
        end = time.monotonic() + START_SECONDS
        states: dict[str, str] = {}
        while time.monotonic() < end:
            states = {name: self.inspect(name)["State"]["Health"]["Status"] for name in SERVICES}
            if set(states.values()) == {"healthy"}:
                return
            time.sleep(1)
        raise RuntimeError(f"expected both healthy, got {states}")

    def ask(self, *turns: tuple[str, str], question: str, seconds: float = 120) -> Reply:
        """Ask about the example picture over plain HTTP.

        Args:
            turns: earlier questions and their answers.
            question: the new one.
            seconds: longest wait.
        """
        uri = f"data:image/png;base64,{base64.b64encode(PICTURE.read_bytes()).decode()}"
        messages: list[dict[str, Any]] = []
        for asked, answered in turns:
            messages += [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": answered},
            ]
        words = {"type": "text", "text": question}
        image = {"type": "image_url", "image_url": {"url": uri}}
        messages.append({"role": "user", "content": [words, image]})
        body = json.dumps({"model": self.model(), "messages": messages}).encode()
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=seconds) as response:
                return Reply(response.status, json.load(response))
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, json.load(error))

    def model(self) -> str:
        """What the gateway calls its model."""
        with urllib.request.urlopen(f"{self.url}/v1/models", timeout=30) as response:
            return str(json.load(response)["data"][0]["id"])


def _engine_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    done = subprocess.run(["docker", "info"], capture_output=True, timeout=60, check=False)
    return done.returncode == 0


def _output(command: list[str], environment: dict[str, str] | None, seconds: float) -> str:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=seconds,
        check=True,
    ).stdout
