from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from aligned_vq.data.scenes.exam import training_images
from benchmarks.leakage.decoder import PixelDecoder, recover, train
from benchmarks.leakage.jpeg import jpeg_within
from benchmarks.leakage.judge import shrunk, stacked, unstacked
from benchmarks.leakage.likeness import psnr_db, ssim

GRID, DIM, PIXELS = 4, 6, 3
SIDE = GRID * PIXELS


def decoder(seed: int = 0) -> PixelDecoder:
    return PixelDecoder(DIM, GRID, PIXELS, width=8, blocks=2, seed=seed)


def examples(count: int = 5) -> tuple[Tensor, Tensor]:
    """Features, and images that are a non-linear function of them."""
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(count, 1 + GRID**2, DIM, generator=draw)
    patches = torch.unflatten(features[:, 1:, :3].transpose(1, 2), 2, (GRID, GRID))
    images = F.interpolate(torch.sigmoid(4 * patches), scale_factor=PIXELS)
    return features, (255 * images).to(torch.uint8)


def loss(pixel_decoder: PixelDecoder, features: Tensor, images: Tensor) -> float:
    with torch.inference_mode():
        return float(F.mse_loss(pixel_decoder(features), images.float() / 255))


def test_decoded_images_have_the_size_of_the_grid() -> None:
    features, images = examples()
    pixel_decoder = decoder()
    assert pixel_decoder(features).shape == images.shape == (5, 3, SIDE, SIDE)
    pixel_decoder.fit_linear(features, images)
    recovered = recover(pixel_decoder, features.half())
    assert recovered.shape == images.shape
    assert recovered.dtype == torch.uint8


def test_least_squares_finds_a_linear_map() -> None:
    features, _ = examples(30)
    values = features[:, 1:] @ torch.rand(DIM, 3 * PIXELS**2) * 0.04 + 0.5
    patches = torch.unflatten(values.transpose(1, 2), 2, (GRID, GRID))
    images = (255 * F.pixel_shuffle(patches, PIXELS)).round().clamp(0, 255).to(torch.uint8)
    pixel_decoder = decoder()
    pixel_decoder.fit_linear(features, images)
    assert (recover(pixel_decoder, features).float() - images.float()).abs().max() <= 2


def test_two_steps_lower_the_loss() -> None:
    features, images = examples()
    pixel_decoder = decoder()
    pixel_decoder.fit_linear(features, images)
    before = loss(pixel_decoder, features, images)
    train(pixel_decoder, features, images, steps=2, seed=0, label="two")
    assert loss(pixel_decoder, features, images) < before


def test_training_follows_its_seed() -> None:
    features, images = examples(40)
    runs = []
    for seed in (3, 3, 4):
        pixel_decoder = decoder(seed)
        losses = train(pixel_decoder, features, images, steps=3, seed=seed, label="seed")
        runs.append((losses, recover(pixel_decoder, features)))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]


def test_a_new_decoder_leaves_the_global_generator_unchanged() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    decoder()
    assert torch.equal(torch.rand(3), expected)


def test_psnr_and_ssim_of_known_images() -> None:
    grey = np.full((32, 32, 3), 100, np.uint8)
    lighter = np.full((32, 32, 3), 120, np.uint8)
    assert psnr_db(grey, lighter) == pytest.approx(20 * np.log10(255 / 20))
    stabiliser = (0.01 * 255) ** 2  # of the formula's first factor; in flat images the second is 1
    flat = (2 * 100 * 120 + stabiliser) / (100**2 + 120**2 + stabiliser)
    assert ssim(grey, lighter) == pytest.approx(flat, abs=1e-6)
    noisy = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert ssim(noisy, noisy) == pytest.approx(1)
    assert ssim(noisy, 255 - noisy) < -0.5


def test_ssim_is_the_papers_sum_over_a_gaussian_window() -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.integers(0, 256, (11, 11, 3), np.uint8) for _ in range(2))
    x = np.arange(-5, 6)
    window = np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * 1.5**2))
    window = (window / window.sum())[..., None]
    a, b = (array.astype(np.float64) for array in (first, second))
    mean_a, mean_b = (window * a).sum((0, 1)), (window * b).sum((0, 1))
    variances = (window * a * a).sum((0, 1)) - mean_a**2 + (window * b * b).sum((0, 1)) - mean_b**2
    shared = (window * a * b).sum((0, 1)) - mean_a * mean_b
    low, high = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    expected = (2 * mean_a * mean_b + low) * (2 * shared + high)
    expected /= (mean_a**2 + mean_b**2 + low) * (variances + high)
    assert ssim(first, second) == pytest.approx(expected.mean(), abs=1e-6)


def test_jpeg_keeps_its_budget_and_uses_it() -> None:
    image = Image.fromarray(shrunk(training_images(1), 168)[0])
    original = np.asarray(image)
    found = []
    for budget in (300, 350, 500, 866, 2000, 9000):
        file = jpeg_within(image, budget)
        assert file is not None
        assert len(file) <= budget
        opened = Image.open(BytesIO(file))
        assert opened.format == "JPEG"
        seen = opened.convert("RGB").resize(image.size, Image.Resampling.BICUBIC)
        found.append(psnr_db(original, np.asarray(seen)))
    assert all(less <= more for less, more in pairwise(found))
    assert found[-1] > found[0] + 5
    assert jpeg_within(image, 100) is None


def test_images_are_shrunk_by_area_and_stacked() -> None:
    checks = np.indices((336, 336)).sum(0) % 2 * 200
    image = Image.fromarray(np.repeat(checks[..., None], 3, 2).astype(np.uint8))
    (small,) = shrunk([image], 168)
    assert small.shape == (168, 168, 3)
    assert (small == 100).all()
    assert shrunk([image], 112)[0].shape == (112, 112, 3)
    images = [small, np.flipud(small)]
    back = unstacked(stacked(images))
    assert all(np.array_equal(*pair) for pair in zip(back, images, strict=True))
