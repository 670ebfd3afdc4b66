"""Bytes at the socket of one question, in both directions, for each form of sending an image.

A proxy between the processes counts them: TLS, HTTP/2, gRPC and HTTP/1.1 are included, TCP and IP
are not. Each connection starts with a question about the mirrored first image, which also pays for
the handshake; the measured questions use the warm connection. Image files and raw features go to
`baseline_service` over the same gRPC protocol. OpenAI's JSON goes through OpenAI's client to the
gateway, behind TLS if the link uses it.
"""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from openai import DefaultHttpxClient, OpenAI
from PIL import Image, ImageOps

from aligned_vq.data.scenes.exam import exam_images
from aligned_vq.errors import ConfigError
from aligned_vq.files.figures import save_figure
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from aligned_vq.types import Payload
from benchmarks.harness.photographs import PHOTOGRAPHS, photograph
from benchmarks.harness.processes import CloudProcess, GatewayProcess, ServerProcess
from benchmarks.harness.tables import STATISTICS, Row, markdown
from benchmarks.kinds.transmitted_forms import (
    BASELINE,
    Endpoint,
    TransmittedForm,
    transmitted_forms,
)
from benchmarks.links.counting_proxy import CountingProxy, SocketBytes
from benchmarks.links.secured_links import LinkSecurity, SecuredLink, secured_link
from benchmarks.links.tls_terminator import TlsTerminator
from benchmarks.real_size.service import real_dimensions
from edge_client import EdgeClient, EdgeConfig

QUESTION = "How many objects are in the picture now?"
MODEL = "camera"
ANSWER_TOKENS = 8
SETTLE_SECONDS = 0.1
"""Time without traffic after which no more frames of an answer are expected."""
FOLLOW_UP = "follow-up by digest"
_COLUMNS = (
    *("warm_up_bytes", "around_bytes", "warm_down_bytes"),
    *("first_up_bytes", "first_down_bytes"),
)
Ask = Callable[[Payload | str], object]


@dataclass(frozen=True)
class SocketBytesSettings:
    """Model, links, images and question.

    Args:
        model: "reference": the bundled model. "real": LLaVA-1.5's dimensions with random weights
            and a language model of one layer of width 512.
        links: how connections are secured.
        photographs: names of natural photographs in `PHOTOGRAPHS`.
        scenes: number of images of the reference world to use instead; 0: the photographs.
        connections: new connections for each form.
        question: asked about every image.
    """

    model: Literal["reference", "real"] = "reference"
    links: tuple[LinkSecurity, ...] = ("plain", "tls")
    photographs: tuple[str, ...] = tuple(PHOTOGRAPHS)
    scenes: int = 0
    connections: int = 1
    question: str = QUESTION

    def __post_init__(self) -> None:
        if not (self.scenes or self.photographs):
            raise ConfigError("expected photographs or scenes, got neither; name one of them")
        if self.connections < 1 or not self.links or not self.question.strip():
            raise ConfigError(
                "expected a question, at least one link and at least one connection, got "
                f"{self.question!r}, links {list(self.links)} and {self.connections} connections"
            )


SETTINGS = SocketBytesSettings


def measure(settings: SocketBytesSettings) -> list[Row]:
    """A row for each form and link, and one for follow-up questions by digest."""
    rows: list[Row] = []
    with _model(settings) as (bundle, checkpoint):
        forms = list(transmitted_forms(bundle, _images(settings)))
        for link in settings.links:
            with _Services(link, bundle, checkpoint) as services:
                for form in forms:
                    # Authentication adds the same bytes to every form: it is measured for ours and
                    # for the baseline only.
                    if link in ("plain", "tls") or form.endpoint == "ours" or form.name == BASELINE:
                        rows += _measure_form(services, form, settings)
    baseline = {row["link"]: row for row in rows if row["name"] == BASELINE}
    for row in rows:
        jpeg = baseline[row["link"]]
        up_pairs = zip(jpeg["warm_up_bytes"], row["warm_up_bytes"], strict=True)
        row["baseline_times"] = [jpeg_up / up for jpeg_up, up in up_pairs]
        for saved_key, key in (("saved", "warm_up_bytes"), ("saved_of_bodies", "body_bytes")):
            row[saved_key] = round(1 - sum(row[key]) / sum(jpeg[key]), 5)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Medians as a Markdown table. `around` counts bytes that are neither body nor question; the
    shares saved refer to the bytes of all images together."""
    head = ("what is sent", "link", "body", "up", "around", "down", "first up", "first down")
    lines = []
    for row in rows:
        medians = {name: statistics["median"] for name, statistics in row[STATISTICS].items()}
        numbers = [f"{medians[name]:,.0f}" if name in medians else "-" for name in _COLUMNS]
        ratio = f"{medians['baseline_times']:.2f} ({min(row['baseline_times']):.2f})"
        body = f"{medians['body_bytes']:,.0f}"
        saved = [f"{100 * row[key]:.2f}" for key in ("saved", "saved_of_bodies")]
        lines.append((row["name"], row["link"], body, *numbers, ratio, *saved))
    more = (f"{BASELINE} is times as much (least)", "saved of it, %", "of its body, %")
    return markdown((*head, *more), lines)


def plot(rows: Sequence[Row], stem: Path) -> None:
    """Bytes sent for a question on a warm connection, over TLS if measured, else the first link."""
    links = [row["link"] for row in rows]
    link = "tls" if "tls" in links else links[0]
    shown = [row for row in rows if row["link"] == link]

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        names = [row["name"].replace("`", "") for row in shown]
        up = [row[STATISTICS]["warm_up_bytes"]["median"] for row in shown]
        colours = ["#0072B2" if row["door"] == "ours" else "#D55E00" for row in shown]
        bars = ax.barh(names, up, color=colours)
        ax.bar_label(bars, [f" {value:,.0f}" for value in up], fontsize=7)
        ax.set(xscale="log", xlabel=f"bytes up of a question, warm connection, {link}")
        # Room for the label of the longest bar.
        ax.set_xlim(right=6 * max(up))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        ax.grid(visible=False, axis="y")
        ax.invert_yaxis()

    save_figure(draw, stem, (7.2, 0.9 + 0.26 * len(shown)))


def _model(settings: SocketBytesSettings) -> Any:
    """A context manager of bundle and checkpoint."""
    if settings.model == "reference":
        return nullcontext((BUNDLE, CHECKPOINT))
    return real_dimensions(layers=1, width=512)


def _images(settings: SocketBytesSettings) -> list[Image.Image]:
    """The image that opens each connection, then the images to compare."""
    if settings.scenes:
        scenes = list(exam_images(8 * settings.scenes))[: settings.scenes]
        images = [image.image.convert("RGB") for image in scenes]
    else:
        images = [photograph(name) for name in settings.photographs]
    # Mirrored, as a repeated image would be sent by its digest.
    return [ImageOps.mirror(images[0]), *images]


class _Services:
    """The production service, the baseline service and the gateway over one kind of link.

    A context manager; the gateway has a TLS terminator in front unless the link is plain.
    """

    def __init__(self, link: LinkSecurity, bundle: Path, checkpoint: Path) -> None:
        self.link = link
        self.bundle = bundle
        self._checkpoint = checkpoint
        self._stack = ExitStack()

    def __enter__(self) -> _Services:
        enter = self._stack.enter_context
        folder = Path(enter(tempfile.TemporaryDirectory()))
        secured = self._secured = secured_link(self.link, folder)
        cloud = enter(CloudProcess(self.bundle, self._checkpoint, *secured.service))
        options = (f"--bundle={self.bundle}", f"--model={self._checkpoint}", "--port=0")
        baseline = enter(
            ServerProcess("benchmarks.kinds.baseline_service", *options, *secured.service)
        )
        gateway_options = (f"--model_name={MODEL}", *secured.client_options)
        gateway = enter(GatewayProcess(cloud.target, self.bundle, *gateway_options))
        self.ports: dict[Endpoint, int] = {
            "ours": cloud.port,
            "raw": baseline.port,
            "openai": gateway.port,
        }
        if secured.folder is not None:
            files = (secured.folder / "server.pem", secured.folder / "server-key.pem")
            self.ports["openai"] = enter(TlsTerminator(gateway.port, *files)).port
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @contextmanager
    def opened(self, endpoint: Endpoint, port: int, question: str) -> Iterator[Ask]:
        """A function that asks the question about a body, over a new connection to `port`."""
        if endpoint == "openai":
            with _openai_client(self._secured, port) as client:
                yield lambda body: _ask_openai(client, body, question)
            return
        timeouts: dict[str, Any] = {"first_token_seconds": 300, "total_seconds": 600, "attempts": 1}
        config = EdgeConfig(**timeouts, **self._secured.client)  # type: ignore[arg-type]
        with EdgeClient(f"127.0.0.1:{port}", self.bundle, config) as edge:
            yield lambda body: edge.ask(body, question, max_tokens=ANSWER_TOKENS)


def _openai_client(secured: SecuredLink, port: int) -> OpenAI:
    trusted: ssl.SSLContext | bool = False
    scheme = "http"
    if secured.folder:
        trusted = ssl.create_default_context(cafile=secured.folder / "ca.pem")
        scheme = "https"
    return OpenAI(
        base_url=f"{scheme}://127.0.0.1:{port}/v1",
        api_key="none",
        http_client=DefaultHttpxClient(verify=trusted),
        # A retry would count as bytes of the question.
        max_retries=0,
        timeout=300,
    )


def _ask_openai(client: OpenAI, image: Any, question: str) -> object:
    parts: Any = [
        {"type": "text", "text": question},
        {"type": "image_url", "image_url": {"url": image}},
    ]
    return client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": parts}], max_tokens=ANSWER_TOKENS
    )


def _measure_form(
    services: _Services, form: TransmittedForm, settings: SocketBytesSettings
) -> list[Row]:
    first: list[SocketBytes] = []
    warm: list[SocketBytes] = []
    follow_up: list[SocketBytes] = []
    for _ in range(settings.connections):
        with (
            CountingProxy(services.ports[form.endpoint]) as proxy,
            services.opened(form.endpoint, proxy.port, settings.question) as ask,
        ):
            for number, body in enumerate(form.bodies):
                # Body 0 opens the connection: its bytes include the handshake.
                (warm if number else first).append(_traffic(proxy, ask, body))
                if form.follow_up and number:
                    follow_up.append(_traffic(proxy, ask, body))
    question_bytes = len(settings.question.encode())
    sizes = list(form.sizes_bytes[1:]) * settings.connections
    rows = [
        _row(form.name, warm, sizes, question_bytes)
        | {
            "first_up_bytes": [traffic.up for traffic in first],
            "first_down_bytes": [traffic.down for traffic in first],
        }
    ]
    if follow_up:
        rows.append(_row(FOLLOW_UP, follow_up, [0] * len(follow_up), question_bytes))
    return [{"link": services.link, "door": form.endpoint, **row} for row in rows]


def _row(
    name: str, traffic: Sequence[SocketBytes], sizes: Sequence[int], question_bytes: int
) -> Row:
    return {
        "name": name,
        "body_bytes": list(sizes),
        "warm_up_bytes": [each.up for each in traffic],
        "warm_down_bytes": [each.down for each in traffic],
        "around_bytes": [
            each.up - size - question_bytes for each, size in zip(traffic, sizes, strict=True)
        ],
    }


def _traffic(proxy: CountingProxy, ask: Ask, body: Payload | str) -> SocketBytes:
    """Bytes of one question."""
    # Drops frames that followed the previous answer.
    proxy.take()
    ask(body)
    return proxy.settled(SETTLE_SECONDS)
