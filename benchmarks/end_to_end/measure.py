"""The same question in every way over every link, in turns, in one run."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from aligned_vq.graph.writing import write_graph
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.end_to_end.edge import LinkedEdgeProcess, Sample, Task
from benchmarks.end_to_end.pictures import CameraFrame, frame
from benchmarks.end_to_end.settings import (
    CLOUD_ONLY,
    EDGE_ONLY,
    NO_LINK,
    SPLIT,
    EndToEndSettings,
    rounds_of,
)
from benchmarks.end_to_end.stages import accounted
from benchmarks.harness.processes import CloudProcess, ServerProcess
from benchmarks.links.network import Network
from benchmarks.links.profiles import Link
from benchmarks.real_size.service import real_dimensions
from cloud_server.model import chosen_device

Row = dict[str, Any]
"""One way over one link with one picture: settings, and lists of samples."""
CLOUD_OPTIONS = (
    "--port=0",
    "--image_cache_mib=0",
    "--prefix_cache_mib=0",
    "--max_answer_seconds=900",
    "--payload_seconds=120",
)
"""Nothing is remembered of a picture, so that every question is about a new one."""
WARM_UP = str(Path(__file__).parents[2] / "examples" / "scene.png")


def measure(settings: EndToEndSettings) -> list[Row]:
    """Rows of every link, picture and way; times in milliseconds, one number for each question.

    Raises:
        ConfigError: a picture or a link is not to be had.
    """
    frames = {name: frame(name) for name in settings.pictures}
    rows = []
    with ExitStack() as stack:
        network = stack.enter_context(Network(settings.namespaces, settings.seed))
        task = stack.enter_context(_task(settings))
        if EDGE_ONLY in settings.ways and settings.model == "reference":
            with LinkedEdgeProcess(task, network.edge_command) as alone:
                rows += _edge_only(settings, alone, frames)
        edge = stack.enter_context(LinkedEdgeProcess(task, network.edge_command))
        targets = stack.enter_context(_clouds(settings, task, network))
        for link in tqdm(settings.links if targets else [], desc="links"):
            with network.link(link, *targets.values()) as reached:
                round_trip_ms = edge.connect(dict(zip(targets, reached, strict=True)))
                for way in targets:
                    edge.ask(way, WARM_UP)
                over = _Over(link, settings, edge, list(targets), round_trip_ms)
                for name, own in frames.items():
                    rows += over.rows(name, own)
        for row in rows:
            row["shaped_by"] = network.shaped_by if row["link"] != NO_LINK else NO_LINK
    return rows


def _edge_only(
    settings: EndToEndSettings, edge: LinkedEdgeProcess, frames: Mapping[str, CameraFrame]
) -> list[Row]:
    """The same pictures without a cloud."""
    edge.ask(EDGE_ONLY, WARM_UP)
    rows = []
    for name, own in frames.items():
        samples = [edge.ask(EDGE_ONLY, name) for _ in range(settings.rounds)]
        rows.append(_row(NO_LINK, {}, own, settings, EDGE_ONLY, samples, 0.0))
    return rows


class _Over(NamedTuple):
    """A link that is up, and all that is asked over it."""

    link: Link
    settings: EndToEndSettings
    edge: LinkedEdgeProcess
    ways: list[str]
    round_trip_ms: float

    def rows(self, name: str, own: CameraFrame) -> list[Row]:
        """Rows of a picture by its name."""
        rounds = dict.fromkeys(self.ways, self.settings.rounds)
        rounds[CLOUD_ONLY] = rounds_of(self.link, own.jpeg_bytes, self.settings)
        samples: dict[str, list[Sample]] = {way: [] for way in self.ways}
        for number in range(self.settings.rounds):
            for way in self.ways:
                if number < rounds[way]:
                    samples[way].append(self.edge.ask(way, name))
        shape = {key: value for key, value in asdict(self.link).items() if key != "name"}
        return [
            _row(self.link.name, shape, own, self.settings, way, found, self.round_trip_ms)
            for way, found in samples.items()
        ]


def _row(
    link: str,
    shape: dict[str, Any],
    own: CameraFrame,
    settings: EndToEndSettings,
    way: str,
    samples: list[Sample],
    round_trip_ms: float,
) -> Row:
    timed = ("edge_ms", "cloud_ms", "first_token_ms", "total_ms")
    stages = [
        accounted(**{key: sample[key] for key in timed}, round_trip_ms=round_trip_ms)
        for sample in samples
    ]
    return {
        "model": settings.model,
        "layers": settings.layers if settings.model == "real" else None,
        "device": chosen_device(settings.device).type,
        "link": link,
        **shape,
        "round_trip_ms": round_trip_ms,
        "picture": own.name,
        "megapixels": round(own.megapixels, 2),
        "jpeg_bytes": own.jpeg_bytes,
        "jpeg_bytes_a_pixel": round(own.bytes_a_pixel, 3),
        "way": way,
        "first_token_ms": [round(sample["first_token_ms"], 2) for sample in samples],
        "total_ms": [round(sample["total_ms"], 2) for sample in samples],
        **{key: [own[key] for own in samples] for key in ("body_bytes", "sent_bytes", "tokens")},
        **{f"{stage}_ms": [round(own[stage], 2) for own in stages] for stage in stages[0]},
    }


@contextmanager
def _task(settings: EndToEndSettings) -> Iterator[Task]:
    """Files of the models, written where they are not the bundled ones."""
    asked = (settings.question, settings.max_tokens, settings.quality)
    with ExitStack() as stack:
        if settings.model == "real":
            bundle, checkpoint = stack.enter_context(real_dimensions(settings.layers))
            write_graph(bundle)
            yield Task(str(bundle), str(checkpoint), *asked)
        elif settings.model == "real edge":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            writer = [sys.executable, "-m", "benchmarks.real_size.bundle", str(folder / "bundle")]
            subprocess.run(writer, check=True, timeout=600)
            write_graph(folder / "bundle")
            yield Task(str(BUNDLE), str(CHECKPOINT), *asked, str(folder / "bundle"))
        else:
            yield Task(str(BUNDLE), str(CHECKPOINT), *asked)


@contextmanager
def _clouds(settings: EndToEndSettings, task: Task, network: Network) -> Iterator[dict[str, str]]:
    """Addresses of the clouds by way, both of one bundle and checkpoint."""
    own = (f"--host={network.cloud_host}", "--plaintext=true", f"--device={settings.device}")
    options = (*CLOUD_OPTIONS, *own)
    files = (f"--bundle={task.bundle}", f"--model={task.checkpoint}")
    with ExitStack() as stack:
        targets = {}
        clouds: dict[str, ServerProcess] = {
            SPLIT: CloudProcess(Path(task.bundle), Path(task.checkpoint), *options),
            CLOUD_ONLY: ServerProcess("benchmarks.kinds.pixel_cloud", *files, *options),
        }
        for way, cloud in clouds.items():
            if way in settings.ways:
                port = stack.enter_context(cloud.launched_by(*network.cloud_command)).port
                targets[way] = f"{network.cloud_host}:{port}"
        yield targets
