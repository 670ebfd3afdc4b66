"""When is a picture another one? Measures of change under noise, exposure, and real changes.

Rendered scenes as a still camera sees them twice: with other noise, compressed anew, a little
brighter, or with one object moved, recoloured or gone. A measure is good where the largest of the
first kind lies below the smallest of the second.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from aligned_vq.codec.bundle import open_edge_bundle
from aligned_vq.data.scenes.scene import COLOURS, Scene, render, sample_scene, scene_rng
from aligned_vq.files.atomic_file import write_file
from aligned_vq.images.preprocess import preprocess, view_of
from aligned_vq.shipped import BUNDLE
from edge_client.watch.change import DEFAULT_LEVEL, ChangeTest, change

SAME = ("noise 5", "noise 10", "noise 20", "noise 10, JPEG-60", "8 % brighter", "JPEG-30")
OTHER = ("moved by 8 px", "moved by 20 px", "recoloured", "gone")


def noisy(pixels: NDArray[np.uint8], rng: np.random.Generator, sigma: float) -> Image.Image:
    """With Gaussian noise of so many levels of 255."""
    found = pixels + sigma * rng.standard_normal(pixels.shape)
    return Image.fromarray(np.clip(found, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Compressed and opened again."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data).convert("RGB")


def versions(scene: Scene, rng: np.random.Generator) -> Iterator[tuple[str, Image.Image]]:
    """The scene as it looks the second time, by what happened."""
    pixels = render(scene).pixels
    for sigma in (5, 10, 20):
        yield f"noise {sigma}", noisy(pixels, rng, sigma)
    yield "noise 10, JPEG-60", jpeg(noisy(pixels, rng, 10), 60)
    brighter = np.clip(1.08 * pixels.astype(np.float32), 0, 255).astype(np.uint8)
    yield "8 % brighter", noisy(brighter, rng, 3)
    yield "JPEG-30", jpeg(Image.fromarray(pixels), 30)
    *rest, last = scene.objects  # the one in front
    for shift in (8, 20):
        towards = 1 if last.x_px < pixels.shape[1] / 2 else -1
        moved = replace(last, x_px=last.x_px + towards * shift)
        changed = replace(scene, objects=(*rest, moved))
        yield f"moved by {shift} px", noisy(render(changed).pixels, rng, 5)
    colour = next(name for name in COLOURS if name != last.colour)
    recoloured = replace(scene, objects=(*rest, replace(last, colour=colour)))
    yield "recoloured", noisy(render(recoloured).pixels, rng, 5)
    if rest:
        yield "gone", noisy(render(replace(scene, objects=tuple(rest))).pixels, rng, 5)


def measures() -> dict[
    str, tuple[Callable[[Image.Image], NDArray[np.generic]], Callable[..., float]]
]:
    """By name: what is kept of a picture, and how two of them are compared."""
    bundle = open_edge_bundle(BUNDLE)
    settings, test = bundle.manifest.processor, ChangeTest(bundle.manifest)

    @torch.inference_mode()
    def first_stage(image: Image.Image) -> NDArray[np.generic]:
        pixels = torch.from_numpy(preprocess(image, settings))
        features, residual = bundle.prefix(pixels[None])
        stages = bundle.codec.encode(features[0], residual[0]).stages
        return next(stage.indices for stage in stages if len(stage.indices))

    return {
        "patch means": (lambda image: test.means(view_of(image, settings)), change),
        "mean difference": (
            lambda image: preprocess(image, settings),
            lambda before, after: float(np.abs(after - before).mean()),
        ),
        "indices that differ": (
            first_stage,
            lambda before, after: float((before != after).any(axis=1).mean()),
        ),
    }


def main() -> int:
    """Print the range of every measure; exits with 1 if the default level does not separate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    kept = measures()
    found: dict[str, dict[str, list[float]]] = {name: {} for name in kept}
    for number in tqdm(range(options.scenes), desc="scenes"):
        rng = scene_rng("validation", number)
        scene = sample_scene(rng)
        first = noisy(render(scene).pixels, rng, 5)
        before = {name: keep(first) for name, (keep, _) in kept.items()}
        for what, image in versions(scene, rng):
            for name, (keep, compare) in kept.items():
                found[name].setdefault(what, []).append(compare(before[name], keep(image)))
    figures = {
        name: {
            what: {
                "least": round(min(values), 3),
                "median": round(float(np.median(values)), 3),
                "most": round(max(values), 3),
            }
            for what, values in rows.items()
        }
        for name, rows in found.items()
    }
    for name, rows in figures.items():
        print(name)
        for what, row in rows.items():
            print(f"  {what:<18} {row['least']:>7} to {row['most']:<7} median {row['median']}")
    means = found["patch means"]
    false = {what: sum(value > DEFAULT_LEVEL for value in means[what]) for what in SAME}
    missed = {what: sum(value <= DEFAULT_LEVEL for value in means[what]) for what in OTHER}
    print(f"patch means at {DEFAULT_LEVEL}: taken for changed {false}, missed {missed}")
    if options.out:
        report = {"level": DEFAULT_LEVEL, "false": false, "missed": missed, "measures": figures}
        write_file(options.out, json.dumps(report, indent=2) + "\n")
    return 1 if any(false.values()) or any(missed.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
