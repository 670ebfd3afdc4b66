"""Students of every architecture, and what their configurations refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from aligned_vq.edgevl.students.build import build_student
from aligned_vq.edgevl.students.config import ARCHITECTURES, preset
from aligned_vq.edgevl.students.deformable import DeformableAttention
from aligned_vq.edgevl.students.layers import DropPath, PatchProjection
from aligned_vq.edgevl.students.windows import WindowAttention, cut_windows, join_windows
from aligned_vq.errors import ConfigError
from tests.edgevl.tiny import CONFIGS, SIDE, WIDTH, images


@pytest.mark.parametrize("architecture", CONFIGS)
def test_embeddings_have_the_teachers_width_and_length_1(architecture: str) -> None:
    student = build_student(CONFIGS[architecture], 0)
    for batch in (1, 5):
        embeddings = student(images(batch, 0))
        assert embeddings.shape == (batch, WIDTH)
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(batch))


@pytest.mark.parametrize("architecture", CONFIGS)
def test_weights_depend_on_the_seed_alone(architecture: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (build_student(CONFIGS[architecture], seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    pixels = images(2, 0)
    one.eval(), same.eval(), other.eval()
    assert torch.equal(one(pixels), same(pixels))
    assert not torch.allclose(one(pixels), other(pixels), atol=1e-2)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_parameter_gets_a_gradient(architecture: str) -> None:
    student = build_student(replace(CONFIGS[architecture], drop_path=0.0), 0)
    target = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1))
    (student(images(4, 0)) * target).sum().backward()
    without = [
        name
        for name, parameter in student.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    # The softmax does not depend on a bias that all keys share: its gradient is rounding noise.
    assert [name for name in without if not name.endswith("k_proj.bias")] == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    ("name", "millions"), [("reference", (1.0, 3.0)), ("published", (20.0, 90.0))]
)
def test_presets_have_the_documented_size(
    architecture: str, name: str, millions: tuple[float, float]
) -> None:
    with torch.device("meta"):
        student = build_student(preset(name, architecture), 0)
    count = sum(parameter.numel() for parameter in student.parameters()) / 1e6
    assert millions[0] <= count <= millions[1]


def test_the_published_swin_is_swin_t() -> None:
    with torch.device("meta"):
        student = build_student(preset("published", "swin"), 0)
    trunk = sum(parameter.numel() for parameter in student.trunk.parameters())
    assert round(trunk / 1e6, 1) == 27.5  # Liu et al., table 1, without the classifier


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("vit", {"architecture": "resnet"}, "unknown architecture 'resnet'"),
        ("vit", {"image_size": 30}, "multiple of the patch_size 8"),
        ("vit", {"widths": (30,), "heads": (4,)}, "multiples of heads"),
        ("vit", {"window": 4}, "no window"),
        ("vit", {"depths": (2, 2)}, "one entry per stage"),
        ("vit", {"embedding_width": 0}, "embedding_width must be 1 or more, got 0"),
        ("swin", {"window": 3}, "windows of 3 do not tile 8"),
        ("swin", {"widths": (16, 48)}, r"expected \(16, 32\)"),
        ("swin", {"image_size": 36}, "cannot be halved"),
        ("swin", {"drop_path": 1.0}, "drop_path"),
        ("swin", {"offset_groups": (0, 2)}, "for dat only"),
        ("dat", {"offset_groups": (0, 3)}, "3 of 4"),
        ("dat", {"offset_groups": (2,)}, "for 2 stages"),
    ],
)
def test_dimensions_that_do_not_fit_are_refused(
    architecture: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(CONFIGS[architecture], **changes)


@pytest.mark.parametrize("shape", [(1, 1, SIDE, SIDE), (1, 3, SIDE, 16), (3, SIDE, SIDE)])
def test_images_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"expected pixels \[B, 3, 32, 32\]"):
        build_student(CONFIGS["vit"], 0)(torch.zeros(shape))


def test_unknown_presets_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown preset 'large'"):
        preset("large", "vit")
    with pytest.raises(ConfigError, match="unknown architecture 'mlp'"):
        preset("reference", "mlp")


def test_patches_equal_a_convolution() -> None:
    layer = PatchProjection(3, 16, 4)
    weight = layer.projection.weight.reshape(16, 3, 4, 4)
    expected = torch.conv2d(images(2, 0), weight, layer.projection.bias, stride=4)
    torch.testing.assert_close(layer(images(2, 0)), expected.flatten(2).transpose(1, 2))


def test_stochastic_depth_drops_whole_images_in_training_only() -> None:
    torch.manual_seed(0)
    layer, x = DropPath(0.5), torch.ones(64, 3, 2)
    dropped = layer.train()(x)
    kept = dropped[:, 0, 0] != 0
    assert 16 < kept.sum() < 48
    assert torch.equal(dropped, torch.where(kept[:, None, None], 2.0, 0.0).expand_as(x))
    assert torch.equal(layer.eval()(x), x)


def test_windows_join_to_what_they_were_cut_from() -> None:
    image = torch.arange(2 * 8 * 8 * 3).reshape(2, 8, 8, 3)
    windows = cut_windows(image, 4)
    assert windows.shape == (2, 4, 16, 3)
    assert torch.equal(windows[0, 1].reshape(4, 4, 3), image[0, :4, 4:])
    assert torch.equal(join_windows(windows, 4), image)


@pytest.mark.parametrize("shifted", [False, True])
def test_windows_keep_opposite_sides_of_the_image_apart(shifted: bool) -> None:
    torch.manual_seed(0)
    attention = WindowAttention(8, 2, 8, 4, shifted)
    x = torch.randn(1, 64, 8, requires_grad=True)
    attention(x)[0, 0].sum().backward()  # token in the upper left corner
    assert x.grad is not None
    seen = x.grad[0].abs().sum(-1).reshape(8, 8) > 0
    side = 2 if shifted else 4  # the shift leaves half a window at the edge
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:side, :side] = True
    assert torch.equal(seen, expected)


def test_deformable_attention_sees_the_whole_grid() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(8, 2, 4, 2)
    x = torch.randn(1, 16, 8, requires_grad=True)
    attention(x)[0, 0].sum().backward()
    assert x.grad is not None
    assert bool((x.grad[0].abs().sum(-1) > 0).all())
