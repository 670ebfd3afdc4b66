from __future__ import annotations

import json
from typing import Any

import pytest
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from aligned_vq.errors import ConfigError
from aligned_vq.images.processor import ProcessorSettings


def test_defaults_are_those_of_the_reference_processors() -> None:
    empty = ProcessorSettings.from_dict({})
    assert empty == ProcessorSettings()
    for processor in (CLIPImageProcessorPil(), LlavaImageProcessorPil()):
        assert ProcessorSettings.from_dict(processor.to_dict()) == empty


def test_both_files_and_old_sizes_give_the_same_settings() -> None:
    llava = LlavaImageProcessorPil(
        do_pad=True, size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
    )
    flat = json.loads(llava.to_json_string())
    nested = {"image_processor": flat, "patch_size": 14, "processor_class": "LlavaProcessor"}
    old = {"size": 336, "crop_size": 336, "do_pad": True, "do_resize": None}
    settings = ProcessorSettings.from_dict(flat)
    assert settings == ProcessorSettings(size=336, crop_size=(336, 336), do_pad=True)
    assert ProcessorSettings.from_dict(nested) == settings
    assert ProcessorSettings.from_dict(old) == settings
    legacy = {"size": 336, "crop_size": 336, "feature_extractor_type": "CLIPFeatureExtractor"}
    assert ProcessorSettings.from_dict(legacy).crop_size == (336, 336)


@pytest.mark.parametrize(
    "settings",
    [
        ProcessorSettings(),
        ProcessorSettings(size=(336, 224), do_center_crop=False, resample=2),
        ProcessorSettings(size=98, crop_size=(98, 98), do_pad=True, image_mean=(0.5, 0.5, 0.5)),
    ],
)
def test_to_dict_round_trips_through_json(settings: ProcessorSettings) -> None:
    again = ProcessorSettings.from_dict(json.loads(json.dumps(settings.to_dict())))
    assert again == settings
    assert again.digest() == settings.digest()


def test_digest_is_pinned_and_tells_settings_apart() -> None:
    assert len(ProcessorSettings().digest()) == 16
    assert ProcessorSettings().digest().hex() == "c3ee5183cdafe7804f17eb1dc8caad12"
    assert ProcessorSettings(do_pad=True).digest() != ProcessorSettings().digest()
    whole = ProcessorSettings.from_dict({"image_mean": [0, 1, 0], "image_std": 1})
    floats = ProcessorSettings(image_mean=(0.0, 1.0, 0.0), image_std=(1.0, 1.0, 1.0))
    assert whole == floats
    assert whole.digest() == floats.digest()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (ProcessorSettings(size=336, crop_size=(300, 200)), (300, 200)),
        (ProcessorSettings(size=(20, 30), do_center_crop=False), (20, 30)),
        (ProcessorSettings(size=50, do_center_crop=False, do_pad=True), (50, 50)),
        (ProcessorSettings(do_resize=False), (224, 224)),
    ],
)
def test_output_size(settings: ProcessorSettings, expected: tuple[int, int]) -> None:
    assert settings.output_size == expected


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        ({"size": {"longest_edge": 336}}, ("size", "longest_edge", "shortest_edge alone")),
        ({"size": {"shortest_edge": 336, "longest_edge": 500}}, ("size", "500")),
        ({"size": {"height": 336}}, ("size", "height and width")),
        ({"size": "large"}, ("size", "'large'")),
        ({"size": 0}, ("size", "1 to 4096")),
        ({"size": True}, ("size", "whole pixels")),
        ({"size": {"shortest_edge": 336.5}}, ("size", "336.5")),
        ({"crop_size": {"shortest_edge": 3}}, ("crop_size", "height and width")),
        ({"crop_size": 5000}, ("crop_size", "5000")),
        ({"resample": 0}, ("resample", "0", "3 (bicubic)")),
        ({"resample": 4}, ("resample", "4")),
        ({"resample": "bicubic"}, ("resample", "'bicubic'")),
        ({"rescale_factor": 0}, ("rescale_factor", "positive")),
        ({"rescale_factor": float("nan")}, ("rescale_factor", "nan")),
        ({"image_mean": [0.5, 0.5]}, ("image_mean", "three")),
        ({"image_mean": ["a", 0, 0]}, ("image_mean", "'a'")),
        ({"image_std": [1, 0, 1]}, ("image_std", "positive")),
        ({"do_resize": "yes"}, ("do_resize", "'yes'", "true or false")),
        ({"do_pad": True, "image_mean": [2, 0, 0]}, ("image_mean", "do_pad")),
        ({"do_center_crop": False}, ("do_center_crop", "shortest_edge")),
        ({"do_resize": False, "do_center_crop": False}, ("do_resize", "do_center_crop")),
        ({"do_flip_channel_order": True}, ("do_flip_channel_order", "do_normalize")),
        ({"use_square_size": True}, ("use_square_size",)),
        ({"image_processor_type": "SiglipImageProcessor"}, ("Siglip", "CLIPImageProcessor")),
        (
            {"image_processor_type": "CLIPImageProcessorFast", "do_pad": True},
            ("do_pad", "LlavaImageProcessor"),
        ),
        ({"image_processor": [1]}, ("image_processor", "JSON object")),
        ([], ("JSON object",)),
    ],
)
def test_unsupported_settings_are_named(config: Any, parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        ProcessorSettings.from_dict(config)
    for part in (*parts, "support"):
        assert part in str(caught.value)


def test_disabled_unknown_steps_and_other_keys_are_let_pass() -> None:
    config = {"do_flip_channel_order": False, "data_format": "channels_first", "pad_size": None}
    assert ProcessorSettings.from_dict(config) == ProcessorSettings()
