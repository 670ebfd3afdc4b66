"""EndToEndSettings of an end-to-end measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aligned_vq.errors import ConfigError
from benchmarks.links.profiles import Link, profiles, sweep

Model = Literal["reference", "real edge", "real"]
MODELS = {
    "reference": "the bundled reference model on both sides",
    "real edge": "the edge works at LLaVA-1.5's dimensions, with random weights, and sends 12 bits "
    "for every token; in both clouds the reference model answers",
    "real": "both sides at LLaVA-1.5's dimensions, with random weights and 12 bits for every token",
}
"""Descriptions of the models, for tables. The edge always runs on a CPU."""
SPLIT, CLOUD_ONLY, EDGE_ONLY = WAYS = ("split", "cloud only", "edge only")
NO_LINK = "none"


@dataclass(frozen=True)
class EndToEndSettings:
    """Links, images and models to measure.

    Args:
        model: "reference": the bundled model on both sides. "real edge": the edge computes at
            LLaVA-1.5's dimensions (ViT-L/14-336, random weights), then sends a payload of the same
            size that the reference model's cloud can decode. "real": both sides at these
            dimensions.
        layers: layers of the language model for "real"; LLaVA-1.5-7B has 32.
        device: device of the clouds, as for `cloud-server serve --device`.
        quality: operating point of the reference model's bundle; None: its default.
        pictures: image files, or names in the folder of `camera_images.PACKAGE`.
        question: asked about each image.
        max_tokens: limit of an answer.
        ways: systems to measure. "edge only" uses no link and runs with the reference model only.
        profiles: names of links in `profiles.yaml`.
        sweep_kbit: rates of further links, the same in both directions.
        sweep_delay_ms: one-way delay of these links.
        rounds: questions of each way on each link; the ways alternate.
        seconds_a_link: limit on the time spent sending JPEGs over one link; one is always sent.
        namespaces: use network namespaces where they are permitted; false: user space on 127.0.0.1.
        seed: for jitter and loss in user space.
    """

    model: Model = "reference"
    layers: int = 2
    device: str = "auto"
    quality: str | None = None
    pictures: tuple[str, ...] = ("Picture_0B_by_freespace.jpg",)
    question: str = "Describe the picture."
    max_tokens: int = 16
    ways: tuple[str, ...] = WAYS
    profiles: tuple[str, ...] = ("3g", "lte", "5g", "wifi", "satellite")
    sweep_kbit: tuple[float, ...] = (200, 1000, 5000, 10_000, 20_000, 50_000, 100_000)
    sweep_delay_ms: float = 10.0
    rounds: int = 10
    seconds_a_link: float = 40.0
    namespaces: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = set(self.ways) - set(WAYS)
        if unknown or not self.ways:
            raise ConfigError(f"ways: expected some of {', '.join(WAYS)}, got {self.ways}")
        if self.rounds < 1 or self.layers < 1 or self.max_tokens < 1 or not self.pictures:
            raise ConfigError(
                "expected rounds, layers and max_tokens of 1 or more and at least one of pictures, "
                f"got {self.rounds}, {self.layers}, {self.max_tokens} and {self.pictures}"
            )
        if self.quality is not None and self.model != "reference":
            raise ConfigError(
                f"quality: expected none, because a codec of real dimensions has one operating "
                f"point, got {self.quality!r}; leave it out"
            )
        if not self.links:
            raise ConfigError(
                "expected profiles or sweep_kbit, got neither; name at least one link"
            )

    @property
    def links(self) -> list[Link]:
        """Links of the sweep, then of the profiles."""
        return sweep(self.sweep_kbit, self.sweep_delay_ms) + profiles(self.profiles)


def rounds_of(link: Link, jpeg_bytes: int, settings: EndToEndSettings) -> int:
    """How often a JPEG is sent over a link: as the time limit permits, and at least once."""
    # Bytes to bits, and kbit/s to bit/s.
    upload_seconds = 8 * jpeg_bytes / (1e3 * link.up_kbit)
    return max(1, min(settings.rounds, int(settings.seconds_a_link / upload_seconds)))
