"""Another camera through the cloud of rgb: questions that need no colour, in the reference world.

    python -m benchmarks.accuracy.modality --bundle runs/depth/bundle --questions 2000

Each row sends images of one camera through one prefix and the same codec; the cloud is the same in
all rows. Rows: rgb through its own prefix, the other camera through the prefix of rgb, and through
its own, if the bundle has one. An answer counts if greedy decoding would give exactly it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from aligned_vq.codec.both_halves import WholeBundle, open_whole_bundle
from aligned_vq.codec.bundle import open_modality_prefix
from aligned_vq.data.scenes.cameras import FARTHEST_M, NEAREST_M
from aligned_vq.data.scenes.exam import TwoCameraScene, two_camera_scene
from aligned_vq.data.scenes.scene import Split
from aligned_vq.data.views import MODALITIES
from aligned_vq.evaluation.llava import LoadedLlava
from aligned_vq.files.atomic_file import write_json
from aligned_vq.images.depth import RangeSettings
from aligned_vq.images.modality import Modality
from aligned_vq.images.preparation import Preparation
from aligned_vq.images.preprocess import normalize
from aligned_vq.llava.packing import packed_logits, right_answers
from aligned_vq.shipped import NAME, bundle_source, checkpoint_source
from aligned_vq.split.loading import load_suffix
from aligned_vq.split.vision import VisionPrefix, VisionSuffix
from benchmarks.harness.provenance import provenance

BATCH = 8
RANGES: dict[Modality, RangeSettings] = {
    "depth": RangeSettings(fixed=(NEAREST_M, FARTHEST_M)),
    "infrared": RangeSettings(),
}
"""Of a camera whose range the bundle does not say."""


@dataclass
class CameraRow:
    """The results of one camera through one prefix."""

    asked: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    sizes: list[int] = field(default_factory=list)
    """Bytes of every payload body."""

    def add(self, kinds: Sequence[str], verdicts: Sequence[bool]) -> None:
        """Count the questions about one image."""
        self.asked.update(kinds)
        self.right.update(kind for kind, right in zip(kinds, verdicts, strict=True) if right)

    def figures(self) -> dict[str, Any]:
        """Percentages and bytes."""
        return {
            "accuracy": round(100 * self.right.total() / self.asked.total(), 1),
            "by_kind": {
                kind: round(100 * self.right[kind] / asked, 1)
                for kind, asked in sorted(self.asked.items())
            },
            "mean_bytes": round(float(np.mean(self.sizes)), 1),
            "max_bytes": max(self.sizes),
            "questions": self.asked.total(),
            "images": len(self.sizes),
        }


@dataclass(frozen=True)
class CameraExam:
    """The cloud's half of the model, and the device's codec.

    Args:
        llava: with the language model.
        suffix: of its tower.
        bundle: with the codec.
        quality: operating point; None: the default.
    """

    llava: LoadedLlava
    suffix: VisionSuffix
    bundle: WholeBundle
    quality: str | None

    @torch.no_grad()
    def answer(
        self, prefix: VisionPrefix, pixels: Tensor, scenes: Sequence[TwoCameraScene], row: CameraRow
    ) -> None:
        """Add the results of some scenes, seen as pixels `[B, 3, H, W]`, to a row."""
        codec, packer = self.bundle.codec, self.llava.packer
        payloads = [
            codec.compress(features, residual, point=self.quality)
            for features, residual in zip(*prefix(pixels), strict=True)
        ]
        decoded = zip(*(codec.decompress(payload) for payload in payloads), strict=True)
        states = self.suffix(*(torch.stack(part) for part in decoded))
        embeds = self.llava.model.model.multi_modal_projector(states)
        text = packer.pack([scene.questions for scene in scenes])
        verdicts = right_answers(packed_logits(self.llava.model, packer, embeds, text), text)
        for scene, payload, of_image in zip(scenes, payloads, verdicts, strict=True):
            row.sizes.append(len(payload.body))
            row.add([question.kind for question in scene.questions], of_image)


def scenes_with(modality: Modality, split: Split, num_questions: int) -> Iterator[TwoCameraScene]:
    """Scenes of a split, from the first, with so many questions in total."""
    index = 0
    while num_questions > 0:
        scene = two_camera_scene(modality, split, index)
        asked = scene.questions[:num_questions]
        yield TwoCameraScene(scene.image, scene.other, asked)
        num_questions -= len(asked)
        index += 1


def rows(
    exam: CameraExam, folder: Path, modality: Modality, scenes: Iterator[TwoCameraScene]
) -> dict[str, CameraRow]:
    """The rows by name, all about the same scenes."""
    manifest = exam.bundle.manifest
    own = [half for half in manifest.modalities if half.modality == modality]
    settings = own[0].range if own else RANGES[modality]
    preparations = {
        "rgb": Preparation(manifest.processor),
        modality: Preparation(manifest.processor, modality, settings),
    }
    prefixes = {("rgb", "rgb"): exam.bundle.prefix, (modality, "rgb"): exam.bundle.prefix}
    if own:
        prefixes[modality, modality] = open_modality_prefix(folder, manifest, modality)
    found = {f"{camera} through {prefix}": CameraRow() for camera, prefix in prefixes}
    with tqdm(desc="exam", unit="image") as bar:
        while batch := list(islice(scenes, BATCH)):
            views = {
                "rgb": [preparations["rgb"].view(scene.image) for scene in batch],
                modality: [preparations[modality].view(scene.other) for scene in batch],
            }
            for ((camera, _), prefix), row in zip(prefixes.items(), found.values(), strict=True):
                pixels = np.stack([normalize(view, manifest.processor) for view in views[camera]])
                exam.answer(prefix, torch.from_numpy(pixels), batch, row)
            bar.update(len(batch))
    return found


def main() -> int:
    """Print one row for each camera and prefix."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default=NAME, help="folder, or 'reference'")
    parser.add_argument("--checkpoint", default=NAME, help="of the bundle")
    parser.add_argument("--modality", choices=MODALITIES, default="depth")
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--split", choices=get_args(Split), default="test")
    parser.add_argument("--quality", help="operating point; the default one if absent")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    llava = LoadedLlava.load(checkpoint_source(options.checkpoint))
    folder = bundle_source(options.bundle)
    bundle = open_whole_bundle(folder, llava.checkpoint)
    suffix = load_suffix(llava.checkpoint, bundle.manifest.split)
    exam = CameraExam(llava, suffix, bundle, options.quality)
    scenes = scenes_with(options.modality, options.split, options.questions)
    figures = {
        name: row.figures() for name, row in rows(exam, folder, options.modality, scenes).items()
    }
    for name, own in figures.items():
        kinds = "  ".join(f"{kind} {share:.1f}" for kind, share in own["by_kind"].items())
        print(f"{name:28} {own['accuracy']:5.1f} %  {own['mean_bytes']:5.0f} B  {kinds}")
    if options.out:
        settings = {name: getattr(options, name) for name in ("split", "quality", "modality")}
        write_json(options.out, {**settings, "rows": figures, **provenance()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
