"""Compares measures of image change under noise, exposure and compression, and under real changes.

A rendered scene is imaged twice by a still camera. The second image differs by noise, compression
or brightness only, or one object is moved, recoloured or removed. A measure separates the two cases
if its largest value in the first is below its smallest in the second.
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

UNCHANGED = ("noise 5", "noise 10", "noise 20", "noise 10, JPEG-60", "8 % brighter", "JPEG-30")
CHANGED = ("moved by 8 px", "moved by 20 px", "recoloured", "gone")


def noisy(pixels: NDArray[np.uint8], rng: np.random.Generator, sigma: float) -> Image.Image:
    """The image with Gaussian noise of standard deviation `sigma`, in levels of 255."""
    # In floating point: sums of uint8 would wrap around at 0 and 255.
    with_noise = pixels + sigma * rng.standard_normal(pixels.shape)
    return Image.fromarray(np.clip(with_noise, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image after JPEG compression."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data).convert("RGB")


def versions(scene: Scene, rng: np.random.Generator) -> Iterator[tuple[str, Image.Image]]:
    """The second images of a scene, each with the name of the difference."""
    pixels = render(scene).pixels
    for sigma in (5, 10, 20):
        yield f"noise {sigma}", noisy(pixels, rng, sigma)
    yield "noise 10, JPEG-60", jpeg(noisy(pixels, rng, 10), 60)
    brighter = np.clip(1.08 * pixels.astype(np.float32), 0, 255).astype(np.uint8)
    yield "8 % brighter", noisy(brighter, rng, 3)
    yield "JPEG-30", jpeg(Image.fromarray(pixels), 30)
    *rest, last = scene.objects  # the last object is in front, so its change is visible
    for shift in (8, 20):
        direction = 1 if last.x_px < pixels.shape[1] / 2 else -1  # towards the centre
        moved = replace(last, x_px=last.x_px + direction * shift)
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
    """Measures by name: a function that describes an image, and one that compares descriptions."""
    bundle = open_edge_bundle(BUNDLE)
    settings, test = bundle.manifest.processor, ChangeTest(bundle.manifest)

    @torch.inference_mode()
    def first_stage(image: Image.Image) -> NDArray[np.generic]:
        pixels = torch.from_numpy(preprocess(image, settings))
        features, residual = bundle.prefix(pixels[None])
        stages = bundle.codec.encode(features[0], residual[0]).stages
        # A stage may cover no token; the first one with indices describes the image.
        return next(stage.indices for stage in stages if len(stage.indices))

    return {
        "patch means": (lambda image: test.means(view_of(image, settings)), change),
        "mean difference": (
            lambda image: preprocess(image, settings),
            lambda before, after: float(np.abs(after - before).mean()),
        ),
        "indices that differ": (
            first_stage,
            # [n, G]: a token counts once, however many of its groups differ.
            lambda before, after: float((before != after).any(axis=1).mean()),
        ),
    }


def main() -> int:
    """Print the range of every measure; exits with 1 if the default level fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    functions = measures()
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in functions}
    for number in tqdm(range(options.scenes), desc="scenes"):
        rng = scene_rng("validation", number)
        scene = sample_scene(rng)
        # Noisy as well: a camera never takes exactly the same image twice.
        first = noisy(render(scene).pixels, rng, 5)
        before = {name: describe(first) for name, (describe, _) in functions.items()}
        for difference, image in versions(scene, rng):
            for name, (describe, compare) in functions.items():
                value = compare(before[name], describe(image))
                samples[name].setdefault(difference, []).append(value)
    figures = {
        name: {
            difference: {
                "least": round(min(values), 3),
                "median": round(float(np.median(values)), 3),
                "most": round(max(values), 3),
            }
            for difference, values in rows.items()
        }
        for name, rows in samples.items()
    }
    for name, rows in figures.items():
        print(name)
        for difference, row in rows.items():
            print(
                f"  {difference:<18} {row['least']:>7} to {row['most']:<7} median {row['median']}"
            )
    means = samples["patch means"]
    false = {name: sum(value > DEFAULT_LEVEL for value in means[name]) for name in UNCHANGED}
    missed = {name: sum(value <= DEFAULT_LEVEL for value in means[name]) for name in CHANGED}
    print(f"patch means at {DEFAULT_LEVEL}: false changes {false}, missed changes {missed}")
    if options.out:
        report = {"level": DEFAULT_LEVEL, "false": false, "missed": missed, "measures": figures}
        write_file(options.out, json.dumps(report, indent=2) + "\n")
    return 1 if any(false.values()) or any(missed.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
