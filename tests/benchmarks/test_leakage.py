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
    """Features, and pictures that depend on them in a way that is not linear."""
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(count, 1 + GRID**2, DIM, generator=draw)
    patches = torch.unflatten(features[:, 1:, :3].transpose(1, 2), 2, (GRID, GRID))
    pictures = F.interpolate(torch.sigmoid(4 * patches), scale_factor=PIXELS)
    return features, (255 * pictures).to(torch.uint8)


def loss(own: PixelDecoder, features: Tensor, pictures: Tensor) -> float:
    with torch.inference_mode():
        return float(F.mse_loss(own(features), pictures.float() / 255))


def test_a_decoder_gives_pictures_of_its_grid() -> None:
    features, pictures = examples()
    own = decoder()
    assert own(features).shape == pictures.shape == (5, 3, SIDE, SIDE)
    own.fit_linear(features, pictures)
    recovered = recover(own, features.half())
    assert recovered.shape == pictures.shape
    assert recovered.dtype == torch.uint8


def test_least_squares_finds_a_linear_map() -> None:
    features, _ = examples(30)
    values = features[:, 1:] @ torch.rand(DIM, 3 * PIXELS**2) * 0.04 + 0.5
    patches = torch.unflatten(values.transpose(1, 2), 2, (GRID, GRID))
    pictures = (255 * F.pixel_shuffle(patches, PIXELS)).round().clamp(0, 255).to(torch.uint8)
    own = decoder()
    own.fit_linear(features, pictures)
    assert (recover(own, features).float() - pictures.float()).abs().max() <= 2


def test_two_steps_lower_the_loss() -> None:
    features, pictures = examples()
    own = decoder()
    own.fit_linear(features, pictures)
    before = loss(own, features, pictures)
    train(own, features, pictures, steps=2, seed=0, label="two")
    assert loss(own, features, pictures) < before


def test_training_follows_its_seed() -> None:
    features, pictures = examples(40)
    runs = []
    for seed in (3, 3, 4):
        own = decoder(seed)
        losses = train(own, features, pictures, steps=3, seed=seed, label="seed")
        runs.append((losses, recover(own, features)))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]


def test_training_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    decoder()
    assert torch.equal(torch.rand(3), expected)


def test_psnr_and_ssim_of_known_pictures() -> None:
    grey = np.full((32, 32, 3), 100, np.uint8)
    lighter = np.full((32, 32, 3), 120, np.uint8)
    assert psnr_db(grey, lighter) == pytest.approx(20 * np.log10(255 / 20))
    stabiliser = (0.01 * 255) ** 2  # of the formula's first factor; flat pictures have no second
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
    a, b = (own.astype(np.float64) for own in (first, second))
    mean_a, mean_b = (window * a).sum((0, 1)), (window * b).sum((0, 1))
    variances = (window * a * a).sum((0, 1)) - mean_a**2 + (window * b * b).sum((0, 1)) - mean_b**2
    shared = (window * a * b).sum((0, 1)) - mean_a * mean_b
    low, high = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    expected = (2 * mean_a * mean_b + low) * (2 * shared + high)
    expected /= (mean_a**2 + mean_b**2 + low) * (variances + high)
    assert ssim(first, second) == pytest.approx(expected.mean(), abs=1e-6)


def test_jpeg_keeps_its_budget_and_uses_it() -> None:
    picture = Image.fromarray(shrunk(training_images(1), 168)[0])
    original = np.asarray(picture)
    found = []
    for budget in (300, 350, 500, 866, 2000, 9000):
        file = jpeg_within(picture, budget)
        assert file is not None
        assert len(file) <= budget
        opened = Image.open(BytesIO(file))
        assert opened.format == "JPEG"
        seen = opened.convert("RGB").resize(picture.size, Image.Resampling.BICUBIC)
        found.append(psnr_db(original, np.asarray(seen)))
    assert all(less <= more for less, more in pairwise(found))
    assert found[-1] > found[0] + 5
    assert jpeg_within(picture, 100) is None


def test_pictures_become_small_by_area_and_stack() -> None:
    checks = np.indices((336, 336)).sum(0) % 2 * 200
    picture = Image.fromarray(np.repeat(checks[..., None], 3, 2).astype(np.uint8))
    (small,) = shrunk([picture], 168)
    assert small.shape == (168, 168, 3)
    assert (small == 100).all()
    assert shrunk([picture], 112)[0].shape == (112, 112, 3)
    pictures = [small, np.flipud(small)]
    back = unstacked(stacked(pictures))
    assert all(np.array_equal(*pair) for pair in zip(back, pictures, strict=True))
