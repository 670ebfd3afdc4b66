"""Asks the same question of every system over every link, alternating, in one run."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aligned_vq.graph.writing import write_graph
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.end_to_end.camera_images import CameraImage, camera_image
from benchmarks.end_to_end.edge import EdgeTask, LinkedEdgeProcess, Sample
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
"""One way over one link with one image: settings, and lists of samples."""
CLOUD_OPTIONS = (
    "--port=0",
    "--image_cache_mib=0",
    "--prefix_cache_mib=0",
    "--max_answer_seconds=900",
    "--payload_seconds=120",
)
"""Without caches, so that every question is about a new image; with time for slow uploads."""
WARM_UP = str(Path(__file__).parents[2] / "examples" / "scene.png")


@dataclass(frozen=True)
class _LinkFacts:
    """What the rows of one link have in common: its name, its shape and a small call's time."""

    name: str = NO_LINK
    shape: Mapping[str, Any] = field(default_factory=dict)
    round_trip_ms: float = 0.0


def measure(settings: EndToEndSettings) -> list[Row]:
    """A row for every link, image and way; times in milliseconds, one number for each question.

    Raises:
        ConfigError: an image file is missing, or the link cannot be made.
    """
    # First, so that a missing file is reported before anything starts.
    images = {name: camera_image(name) for name in settings.pictures}
    rows = []
    with ExitStack() as stack:
        network = stack.enter_context(Network(settings.namespaces, settings.seed))
        task = stack.enter_context(_task(settings))
        if EDGE_ONLY in settings.ways and settings.model == "reference":
            # Before the clouds start, in a process that ends here: they compete for CPU and memory.
            with LinkedEdgeProcess(task, network.edge_command) as edge_only:
                rows += _edge_only_rows(settings, edge_only, images)
        edge = stack.enter_context(LinkedEdgeProcess(task, network.edge_command))
        targets = stack.enter_context(_clouds(settings, task, network))
        # Without a cloud, as with the edge alone, no link is used.
        for link in tqdm(settings.links if targets else [], desc="links"):
            with network.link(link, *targets.values()) as addresses:
                round_trip_ms = edge.connect(dict(zip(targets, addresses, strict=True)))
                # The first question of a connection loads models and grows TCP's windows.
                for way in targets:
                    edge.ask(way, WARM_UP)
                rows += _link_rows(settings, edge, link, round_trip_ms, images)
        for row in rows:
            row["shaped_by"] = network.shaped_by if row["link"] != NO_LINK else NO_LINK
    return rows


def _edge_only_rows(
    settings: EndToEndSettings, edge: LinkedEdgeProcess, images: Mapping[str, CameraImage]
) -> list[Row]:
    """Rows of the whole model on the edge, without a cloud."""
    edge.ask(EDGE_ONLY, WARM_UP)
    rows = []
    for name, image in images.items():
        samples = [edge.ask(EDGE_ONLY, name) for _ in range(settings.rounds)]
        rows.append(_row(settings, _LinkFacts(), image, EDGE_ONLY, samples))
    return rows


def _link_rows(
    settings: EndToEndSettings,
    edge: LinkedEdgeProcess,
    link: Link,
    round_trip_ms: float,
    images: Mapping[str, CameraImage],
) -> list[Row]:
    """Rows of every way that has a cloud and of every image, over a link that is up."""
    shape = {key: value for key, value in asdict(link).items() if key != "name"}
    facts = _LinkFacts(link.name, shape, round_trip_ms)
    rows = []
    for name, image in images.items():
        rounds = {SPLIT: settings.rounds, CLOUD_ONLY: rounds_of(link, image.jpeg_bytes, settings)}
        ways = [way for way in rounds if way in settings.ways]
        samples: dict[str, list[Sample]] = {way: [] for way in ways}
        # The ways alternate, so that a slow moment of the machine affects all of them.
        for number in range(settings.rounds):
            for way in ways:
                if number < rounds[way]:
                    samples[way].append(edge.ask(way, name))
        rows += [_row(settings, facts, image, way, samples[way]) for way in ways]
    return rows


def _row(
    settings: EndToEndSettings,
    link: _LinkFacts,
    image: CameraImage,
    way: str,
    samples: list[Sample],
) -> Row:
    timed = ("edge_ms", "cloud_ms", "first_token_ms", "total_ms")
    stages = [
        accounted(**{key: sample[key] for key in timed}, round_trip_ms=link.round_trip_ms)
        for sample in samples
    ]
    counts = ("body_bytes", "sent_bytes", "tokens")
    return {
        "model": settings.model,
        "layers": settings.layers if settings.model == "real" else None,
        "device": chosen_device(settings.device).type,
        "link": link.name,
        **link.shape,
        "round_trip_ms": link.round_trip_ms,
        "picture": image.name,
        "megapixels": round(image.megapixels, 2),
        "jpeg_bytes": image.jpeg_bytes,
        "jpeg_bytes_a_pixel": round(image.bytes_a_pixel, 3),
        "way": way,
        "first_token_ms": [round(sample["first_token_ms"], 2) for sample in samples],
        "total_ms": [round(sample["total_ms"], 2) for sample in samples],
        **{key: [sample[key] for sample in samples] for key in counts},
        **{f"{stage}_ms": [round(times[stage], 2) for times in stages] for stage in stages[0]},
    }


@contextmanager
def _task(settings: EndToEndSettings) -> Iterator[EdgeTask]:
    """The task of the edge process; models that are not bundled are written to temporary files."""
    question = (settings.question, settings.max_tokens, settings.quality)
    with ExitStack() as stack:
        if settings.model == "real":
            bundle, checkpoint = stack.enter_context(real_dimensions(settings.layers))
            write_graph(bundle)
            yield EdgeTask(str(bundle), str(checkpoint), *question)
        elif settings.model == "real edge":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            # In a separate process, whose end frees the memory of a whole checkpoint.
            writer = [sys.executable, "-m", "benchmarks.real_size.bundle", str(folder / "bundle")]
            subprocess.run(writer, check=True, timeout=600)
            write_graph(folder / "bundle")
            yield EdgeTask(str(BUNDLE), str(CHECKPOINT), *question, str(folder / "bundle"))
        else:
            yield EdgeTask(str(BUNDLE), str(CHECKPOINT), *question)


@contextmanager
def _clouds(
    settings: EndToEndSettings, task: EdgeTask, network: Network
) -> Iterator[dict[str, str]]:
    """Addresses by way of the clouds, which serve the same bundle and checkpoint."""
    options = (
        *CLOUD_OPTIONS,
        *(f"--host={network.cloud_host}", "--plaintext=true", f"--device={settings.device}"),
    )
    files = (f"--bundle={task.bundle}", f"--model={task.checkpoint}")
    with ExitStack() as stack:
        targets = {}
        clouds: dict[str, ServerProcess] = {
            SPLIT: CloudProcess(Path(task.bundle), Path(task.checkpoint), *options),
            CLOUD_ONLY: ServerProcess("benchmarks.kinds.baseline_service", *files, *options),
        }
        for way, cloud in clouds.items():
            if way in settings.ways:
                port = stack.enter_context(cloud.launched_by(*network.cloud_command)).port
                targets[way] = f"{network.cloud_host}:{port}"
        yield targets
