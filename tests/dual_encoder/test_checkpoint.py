"""Dual encoders give what transformers gives, and refuse what is not one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    CLIPModel,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
)

from aligned_vq.dual_encoder.checkpoint import DualEncoder
from aligned_vq.errors import ConfigError, InvalidInput

SIDE_PX = 144
_SIGLIP_TEXT = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
_SIGLIP_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 16,
}


def pixels(count: int = 3, side: int = SIDE_PX) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("kind", "patch_px", "context"), [("clip", 32, 77), ("siglip", 16, 64), ("siglip2", 16, 64)]
)
def test_what_a_configuration_leaves_out_is_as_in_transformers(
    tmp_path: Path, kind: str, patch_px: int, context: int
) -> None:
    """As those of published SigLIPs."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    save_file({}, tmp_path / "model.safetensors")
    encoder = DualEncoder(tmp_path)
    assert encoder._patch_size == patch_px
    assert encoder.context_tokens == context
    assert encoder.token_width == 768


def test_embeddings_are_those_of_transformers_at_length_1(small_clip: Path) -> None:
    encoder = DualEncoder(small_clip)
    model = CLIPModel.from_pretrained(small_clip)
    with torch.no_grad():
        expected = model.get_image_features(pixel_values=pixels()).pooler_output
        ids = AutoTokenizer.from_pretrained(small_clip)("a photo of a gym", return_tensors="pt")
        text = model.get_text_features(input_ids=ids["input_ids"]).pooler_output
    images = encoder.image_embeddings(pixels())
    torch.testing.assert_close(images, torch.nn.functional.normalize(expected, dim=-1))
    # Padding behind the end token has no influence.
    embedded = encoder.text_embeddings(["a photo of a gym"])
    torch.testing.assert_close(embedded, torch.nn.functional.normalize(text, dim=-1))
    assert encoder.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))
    assert encoder.width == 128
    with torch.no_grad():
        hidden = model.vision_model(pixel_values=pixels()).last_hidden_state
    tokens = encoder.image_features(pixels()).tokens
    side = int((hidden.shape[1] - 1) ** 0.5)
    assert tokens.shape == (3, encoder.token_width, side, side)
    # Row by row, behind the class token.
    torch.testing.assert_close(tokens[:, :, 1, 0], hidden[:, 1 + side])


def test_a_half_that_is_not_used_is_not_read(small_clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small_clip, tmp_path / "clip")
    tensors = load_file(folder / "model.safetensors")
    vision = {k: v for k, v in tensors.items() if not k.startswith(("text_model", "text_proj"))}
    save_file(vision, folder / "model.safetensors", {"format": "pt"})
    encoder = DualEncoder(folder)
    assert encoder.image_embeddings(pixels()).shape == (3, 128)
    with pytest.raises(ConfigError, match=r"every tensor of CLIPTextModelWithProjection.*fetch"):
        encoder.text_embeddings(["a gym"])


@pytest.mark.parametrize("count", [1, 5])
def test_siglip(small_clip: Path, tmp_path: Path, count: int) -> None:
    torch.manual_seed(0)
    config = SiglipConfig(
        text_config=_SIGLIP_TEXT, vision_config={**_SIGLIP_VISION, "image_size": 48}
    )
    model = SiglipModel(config).eval()
    encoder = _saved(model, small_clip, tmp_path)
    with torch.no_grad():
        expected = model.get_image_features(pixel_values=pixels(count, 48)).pooler_output
    found = encoder.image_embeddings(pixels(count, 48))
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected, dim=-1))
    assert encoder.token_ids(["a gym"]).shape == (1, 16)
    assert encoder.image_features(pixels(count, 48)).tokens.shape == (
        count,
        encoder.token_width,
        3,
        3,
    )


def test_siglip_2_takes_patches_in_rows(small_clip: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Siglip2Config(
        text_config=_SIGLIP_TEXT, vision_config={**_SIGLIP_VISION, "num_patches": 9}
    )
    model = Siglip2Model(config).eval()
    encoder = _saved(model, small_clip, tmp_path)
    image = pixels(1, 48)
    # Rows of patches, and in a patch rows of pixels with their channels.
    rows = image[0].permute(1, 2, 0)
    patches = [
        rows[16 * r : 16 * r + 16, 16 * c : 16 * c + 16].reshape(-1)
        for r in range(3)
        for c in range(3)
    ]
    with torch.no_grad():
        expected = model.get_image_features(
            pixel_values=torch.stack(patches)[None],
            spatial_shapes=torch.tensor([[3, 3]]),
            pixel_attention_mask=torch.ones(1, 9, dtype=torch.int32),
        ).pooler_output
    found = encoder.image_embeddings(image)
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected, dim=-1))


def test_special_tokens_in_texts_are_text(small_clip: Path) -> None:
    encoder = DualEncoder(small_clip)
    (ids,) = encoder.token_ids(["a <|endoftext|> gym"]).tolist()
    end = encoder.tokenizer.eos_token_id
    # One start; the first end comes after every character of the text.
    assert ids.index(end) > 10
    assert ids.count(encoder.tokenizer.bos_token_id) == 1


def test_a_text_beyond_the_context_is_refused(small_clip: Path) -> None:
    with pytest.raises(InvalidInput, match=r"at most 40 tokens, got \d+ in 'zq zq"):
        DualEncoder(small_clip).text_embeddings(["gym", "zq " * 60])


def test_other_models_are_refused(small_clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small_clip, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "llava"}))
    with pytest.raises(ConfigError, match="type 'llava'; expected one of clip, siglip, siglip2"):
        DualEncoder(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="type None"):
        DualEncoder(folder)


def _saved(model: torch.nn.Module, small_clip: Path, folder: Path) -> DualEncoder:
    model.save_pretrained(folder)  # type: ignore[operator]
    AutoTokenizer.from_pretrained(small_clip).save_pretrained(folder)
    return DualEncoder(folder)
