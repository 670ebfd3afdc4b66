"""Bytes at the socket, both ways, of one question: what each way of sending a picture costs.

Counted by a proxy between the processes: TLS, HTTP/2, gRPC or HTTP/1.1 are in, TCP and IP are not.
Each connection begins with a question about the mirror image of the first picture, which also pays
for the handshake; the others find it warm.
Files and features go to a service that is the production one but for how it reads a body, over the
same gRPC; OpenAI's JSON goes through OpenAI's client to the gateway, behind TLS where it is asked.
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
from aligned_vq.evaluation.plots import save_figure
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from aligned_vq.types import Payload
from benchmarks.harness.photographs import PHOTOGRAPHS, photograph
from benchmarks.harness.processes import CloudProcess, GatewayProcess, ServerProcess
from benchmarks.harness.tables import STATISTICS, Row, markdown
from benchmarks.kinds.things_sent import BASELINE, Door, Thing, things
from benchmarks.links.counting_proxy import CountingProxy, SocketBytes
from benchmarks.links.secured_links import Link, Secured, secured
from benchmarks.links.tls_terminator import TlsTerminator
from benchmarks.real_size.service import real_dimensions
from edge_client import EdgeClient, EdgeConfig

QUESTION = "How many objects are in the picture now?"
MODEL = "camera"
ANSWER_TOKENS = 8
SETTLE_SECONDS = 0.1
"""For frames that follow an answer."""
FOLLOW_UP = "follow-up by digest"
_COLUMNS = (
    *("warm_up_bytes", "around_bytes", "warm_down_bytes"),
    *("first_up_bytes", "first_down_bytes"),
)
Ask = Callable[[Payload | str], object]


@dataclass(frozen=True)
class SocketBytesSettings:
    """What is asked, of what, over what.

    Args:
        model: the bundled reference model, or LLaVA-1.5's dimensions with random weights and one
            layer of a language model of width 512.
        links: how connections are secured.
        photographs: natural ones, names of `PHOTOGRAPHS`.
        scenes: so many pictures of the reference world in their place, unless 0.
        connections: made anew for each way of sending.
        question: asked about every picture.
    """

    model: Literal["reference", "real"] = "reference"
    links: tuple[Link, ...] = ("plain", "tls")
    photographs: tuple[str, ...] = tuple(PHOTOGRAPHS)
    scenes: int = 0
    connections: int = 1
    question: str = QUESTION

    def __post_init__(self) -> None:
        if not (self.scenes or self.photographs):
            raise ConfigError("expected photographs or scenes, got neither; name some")
        if self.connections < 1 or not self.links or not self.question.strip():
            raise ConfigError("expected a question, a link and a connection at least, got fewer")


SETTINGS = SocketBytesSettings


def measure(settings: SocketBytesSettings) -> list[Row]:
    """A row for each thing sent and link, and one for what follows by digest."""
    rows: list[Row] = []
    with _model(settings) as (bundle, checkpoint):
        sent = list(things(bundle, _pictures(settings)))
        for link in settings.links:
            with _Services(link, bundle, checkpoint) as services:
                for thing in sent:
                    if link in ("plain", "tls") or thing.door == "ours" or thing.name == BASELINE:
                        rows += _measured(services, thing, settings)
    baseline = {row["link"]: row for row in rows if row["name"] == BASELINE}
    for row in rows:
        jpeg = baseline[row["link"]]
        up = zip(jpeg["warm_up_bytes"], row["warm_up_bytes"], strict=True)
        row["baseline_times"] = [a / b for a, b in up]
        for saved, key in (("saved", "warm_up_bytes"), ("saved_of_bodies", "body_bytes")):
            row[saved] = round(1 - sum(row[key]) / sum(jpeg[key]), 5)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Medians; `around` is what is neither body nor question, what is saved is of all pictures'
    bytes together."""
    head = ("what is sent", "link", "body", "up", "around", "down", "first up", "first down")
    lines = []
    for row in rows:
        found = {name: own["median"] for name, own in row[STATISTICS].items()}
        numbers = [f"{found[name]:,.0f}" if name in found else "-" for name in _COLUMNS]
        times = row["baseline_times"]
        least = f"{found['baseline_times']:.2f} ({min(times):.2f})"
        body = f"{found['body_bytes']:,.0f}"
        saved = [f"{100 * row[key]:.2f}" for key in ("saved", "saved_of_bodies")]
        lines.append((row["name"], row["link"], body, *numbers, least, *saved))
    more = (f"{BASELINE} is times as much (least)", "saved of it, %", "of its body, %")
    return markdown((*head, *more), lines)


def plot(rows: Sequence[Row], stem: Path) -> None:
    """Bytes up of a question on a warm connection, over the strongest link measured of TLS."""
    links = [row["link"] for row in rows]
    link = "tls" if "tls" in links else links[0]
    own = [row for row in rows if row["link"] == link]

    def draw(figure: Figure) -> None:
        ax = figure.subplots()
        names = [row["name"].replace("`", "") for row in own]
        up = [row[STATISTICS]["warm_up_bytes"]["median"] for row in own]
        ours = ["#0072B2" if row["door"] == "ours" else "#D55E00" for row in own]
        bars = ax.barh(names, up, color=ours)
        ax.bar_label(bars, [f" {value:,.0f}" for value in up], fontsize=7)
        ax.set(xscale="log", xlabel=f"bytes up of a question, warm connection, {link}")
        ax.set_xlim(right=6 * max(up))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        ax.grid(visible=False, axis="y")
        ax.invert_yaxis()

    save_figure(draw, stem, (7.2, 0.9 + 0.26 * len(own)))


def _model(settings: SocketBytesSettings) -> Any:
    if settings.model == "reference":
        return nullcontext((BUNDLE, CHECKPOINT))
    return real_dimensions(layers=1, width=512)


def _pictures(settings: SocketBytesSettings) -> list[Image.Image]:
    """What meets the fresh connection, and then what is compared."""
    if settings.scenes:
        found = list(exam_images(8 * settings.scenes))[: settings.scenes]
        pictures = [image.image.convert("RGB") for image in found]
    else:
        pictures = [photograph(name) for name in settings.photographs]
    return [ImageOps.mirror(pictures[0]), *pictures]


class _Services:
    """Both clouds and the gateway with its TLS, over one kind of link; entered, they serve."""

    def __init__(self, link: Link, bundle: Path, checkpoint: Path) -> None:
        self.link = link
        self.bundle = bundle
        self._checkpoint = checkpoint
        self._stack = ExitStack()

    def __enter__(self) -> _Services:
        enter = self._stack.enter_context
        own = self._secured = secured(self.link, Path(enter(tempfile.TemporaryDirectory())))
        ours = enter(CloudProcess(self.bundle, self._checkpoint, *own.service))
        options = (f"--bundle={self.bundle}", f"--model={self._checkpoint}", "--port=0")
        raw = enter(ServerProcess("benchmarks.kinds.pixel_cloud", *options, *own.service))
        named = f"--model_name={MODEL}"
        gateway = enter(GatewayProcess(ours.target, self.bundle, named, *own.client_options))
        self.ports: dict[Door, int] = {"ours": ours.port, "raw": raw.port, "openai": gateway.port}
        if own.folder is not None:
            files = (own.folder / "server.pem", own.folder / "server-key.pem")
            self.ports["openai"] = enter(TlsTerminator(gateway.port, *files)).port
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @contextmanager
    def opened(self, door: Door, port: int, question: str) -> Iterator[Ask]:
        """What asks, over a connection of its own to `port`."""
        if door == "openai":
            with _openai(self._secured, port) as client:
                yield lambda body: _ask_openai(client, body, question)
            return
        patient: dict[str, Any] = {"first_token_seconds": 300, "total_seconds": 600, "attempts": 1}
        config = EdgeConfig(**patient, **self._secured.client)  # type: ignore[arg-type]
        with EdgeClient(f"127.0.0.1:{port}", self.bundle, config) as edge:
            yield lambda body: edge.ask(body, question, max_tokens=ANSWER_TOKENS)


def _openai(own: Secured, port: int) -> OpenAI:
    trusted = ssl.create_default_context(cafile=own.folder / "ca.pem") if own.folder else False
    scheme = "https" if own.folder else "http"
    return OpenAI(
        base_url=f"{scheme}://127.0.0.1:{port}/v1",
        api_key="none",
        http_client=DefaultHttpxClient(verify=trusted),
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


def _measured(services: _Services, thing: Thing, settings: SocketBytesSettings) -> list[Row]:
    first: list[SocketBytes] = []
    warm: list[SocketBytes] = []
    again: list[SocketBytes] = []
    for _ in range(settings.connections):
        with (
            CountingProxy(services.ports[thing.door]) as proxy,
            services.opened(thing.door, proxy.port, settings.question) as ask,
        ):
            for number, body in enumerate(thing.bodies):
                (warm if number else first).append(_counted(proxy, ask, body))
                if thing.follow_up and number:
                    again.append(_counted(proxy, ask, body))
    spoken = len(settings.question.encode())
    sizes = list(thing.sizes_bytes[1:]) * settings.connections
    own = _row(thing.name, warm, sizes, spoken) | {
        "first_up_bytes": [seen.up for seen in first],
        "first_down_bytes": [seen.down for seen in first],
    }
    rows = [own, *([_row(FOLLOW_UP, again, [0] * len(again), spoken)] if again else [])]
    return [{"link": services.link, "door": thing.door, **row} for row in rows]


def _row(name: str, seen: Sequence[SocketBytes], sizes: Sequence[int], spoken: int) -> Row:
    return {
        "name": name,
        "body_bytes": list(sizes),
        "warm_up_bytes": [own.up for own in seen],
        "warm_down_bytes": [own.down for own in seen],
        "around_bytes": [own.up - size - spoken for own, size in zip(seen, sizes, strict=True)],
    }


def _counted(proxy: CountingProxy, ask: Ask, body: Payload | str) -> SocketBytes:
    proxy.take()
    ask(body)
    return proxy.settled(SETTLE_SECONDS)
