"""Image-processor settings of a Hugging Face checkpoint; `preprocess` applies them.

Edge and training must prepare images alike, so the settings are part of the manifest. The CLIP and
LLaVA processors are supported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from aligned_vq.errors import ConfigError
from aligned_vq.types import digest_of

HeightWidth = tuple[int, int]
ResizeSize = int | HeightWidth
Triple = tuple[float, float, float]

MAX_SIDE = 4096

_RESAMPLES = {1: "Lanczos", 2: "bilinear", 3: "bicubic"}
_CLIP = ("CLIPImageProcessor", "CLIPFeatureExtractor")
_LLAVA = ("LlavaImageProcessor",)
_FLAGS = (
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
    "do_convert_rgb",
    "do_pad",
)


def _unsupported(name: str, value: object, supported: str) -> ConfigError:
    return ConfigError(
        f"image processor: {name} is {value!r}, which is not supported; supported: {supported}"
    )


@dataclass(frozen=True)
class ProcessorSettings:
    """The steps from an image to the vision tower's input; the defaults are CLIP's.

    The order of steps is: convert to RGB, pad to a square with the mean colour (`do_pad`), resize,
    centre crop, rescale, normalize.

    Raises:
        ConfigError: a setting is not supported, or the output size would depend on the image.
    """

    do_resize: bool = True
    size: ResizeSize = 224
    """Length of the shorter side (an int) or (height, width), in pixels."""
    resample: int = 3
    """Pillow's `Resampling` filter."""
    do_center_crop: bool = True
    crop_size: HeightWidth = (224, 224)
    """(height, width) in pixels; smaller images are surrounded by zeros."""
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: Triple = (0.48145466, 0.4578275, 0.40821073)
    """Per channel, after rescaling; times 255 it is also the padding colour."""
    image_std: Triple = (0.26862954, 0.26130258, 0.27577711)
    do_convert_rgb: bool = True
    do_pad: bool = False

    def __post_init__(self) -> None:
        """Check every setting."""
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise _unsupported(name, getattr(self, name), "true or false")
        if isinstance(self.size, tuple):
            _check_sides("size", self.size)
        else:
            _check_sides("size", (self.size, self.size))
        _check_sides("crop_size", self.crop_size)
        if type(self.resample) is not int or self.resample not in _RESAMPLES:
            names = ", ".join(f"{number} ({name})" for number, name in _RESAMPLES.items())
            raise _unsupported("resample", self.resample, names)
        if not _is_number(self.rescale_factor) or self.rescale_factor <= 0:
            raise _unsupported("rescale_factor", self.rescale_factor, "a positive number")
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            if (
                not isinstance(values, tuple)
                or len(values) != 3
                or not all(map(_is_number, values))
            ):
                raise _unsupported(name, values, "three finite numbers, one per channel")
        if min(self.image_std) <= 0:
            raise _unsupported("image_std", self.image_std, "three positive numbers")
        # The mean times 255 is the padding colour, which has 8 bits.
        if self.do_pad and not all(0 <= mean <= 1 for mean in self.image_mean):
            raise _unsupported("image_mean", self.image_mean, "0 to 1 where do_pad is true")
        if not self.do_center_crop and not self.do_resize:
            raise _unsupported("do_resize", False, "true, unless do_center_crop fixes the size")
        if not (self.do_center_crop or self.do_pad or isinstance(self.size, tuple)):
            raise _unsupported(
                "do_center_crop",
                False,
                "true where size is a shortest_edge, unless do_pad makes the image square",
            )

    @property
    def output_size(self) -> HeightWidth:
        """(height, width) of every prepared image, in pixels."""
        if self.do_center_crop:
            return self.crop_size
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> ProcessorSettings:
        """The settings in the content of `preprocessor_config.json` or `processor_config.json`.

        Missing and null settings take CLIP's defaults. Sizes may be single numbers, as in old
        checkpoints.

        Raises:
            ConfigError: another processor, or an unsupported value or enabled `do_...` step.
        """
        if not isinstance(config, Mapping):
            raise _unsupported("the configuration", config, "a JSON object")
        # `processor_config.json` nests the settings, `preprocessor_config.json` does not.
        section = config.get("image_processor", config)
        if not isinstance(section, Mapping):
            raise _unsupported("image_processor", section, "a JSON object")
        settings = {name: value for name, value in section.items() if value is not None}
        _check_kind(settings)
        supported = cls.__dataclass_fields__
        # A step that is not supported is accepted if it is switched off.
        for name, value in settings.items():
            if (
                (name.startswith("do_") or name == "use_square_size")
                and name not in supported
                and value
            ):
                raise _unsupported(name, value, f"false; the steps are {', '.join(_FLAGS)}")
        fields = {name: value for name, value in settings.items() if name in supported}
        if "size" in fields:
            fields["size"] = _read_size(fields["size"])
        if "crop_size" in fields:
            fields["crop_size"] = _read_crop_size(fields["crop_size"])
        for name in ("image_mean", "image_std"):
            if name in fields:
                fields[name] = _read_triple(name, fields[name])
        resample = fields.get("resample")
        # `int` turns Pillow's enumeration, a subclass of int, into a plain number.
        if isinstance(resample, int) and type(resample) is not bool:
            fields["resample"] = int(resample)
        if type(fields.get("rescale_factor")) is int:
            fields["rescale_factor"] = float(fields["rescale_factor"])
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values in the checkpoint's format; `from_dict` restores them."""
        result = asdict(self)
        if isinstance(self.size, tuple):
            result["size"] = {"height": self.size[0], "width": self.size[1]}
        else:
            result["size"] = {"shortest_edge": self.size}
        result["crop_size"] = {"height": self.crop_size[0], "width": self.crop_size[1]}
        # An integer would change the JSON text and so the digest.
        result["image_mean"] = [float(value) for value in self.image_mean]
        result["image_std"] = [float(value) for value in self.image_std]
        result["rescale_factor"] = float(self.rescale_factor)
        return result

    def digest(self) -> bytes:
        """16 bytes that identify these settings, of their canonical JSON."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return digest_of(text.encode())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)


def _check_sides(name: str, sides: object) -> None:
    if (
        not isinstance(sides, tuple)
        or len(sides) != 2
        or any(type(side) is not int or not 1 <= side <= MAX_SIDE for side in sides)
    ):
        raise _unsupported(name, sides, f"whole pixels, 1 to {MAX_SIDE} a side")


def _check_kind(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for processors with other steps, and for CLIP with `do_pad`.

    In CLIP's processor, `do_pad` does not pad to a square.
    """
    kind = settings.get("image_processor_type", settings.get("feature_extractor_type"))
    if kind is None:
        return
    # These suffixes name implementations of the same processor.
    base = str(kind).removesuffix("Fast").removesuffix("Pil")
    if base not in _CLIP + _LLAVA:
        raise _unsupported("image_processor_type", kind, ", ".join(_CLIP + _LLAVA))
    if base in _CLIP and settings.get("do_pad"):
        supported = "false, unless the type is LlavaImageProcessor"
        raise _unsupported("do_pad", settings["do_pad"], supported)


def _read_size(value: object) -> ResizeSize:
    if isinstance(value, int):
        return value
    sides = _read_sides(value)
    match sides:
        # Only these keys: a mapping pattern alone would accept others.
        case {"shortest_edge": int(edge), **rest} if not rest:
            return edge
        case {"height": int(height), "width": int(width), **rest} if not rest:
            return height, width
    raise _unsupported("size", value, "shortest_edge alone, or height and width")


def _read_crop_size(value: object) -> HeightWidth:
    if isinstance(value, int):
        return value, value
    match _read_sides(value):
        case {"height": int(height), "width": int(width), **rest} if not rest:
            return height, width
    raise _unsupported("crop_size", value, "height and width")


def _read_sides(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {}
    return {str(name): side for name, side in value.items() if side is not None}


def _read_triple(name: str, value: object) -> Triple:
    values = [value] * 3 if isinstance(value, int | float) else value
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(map(_is_number, values)):
        raise _unsupported(name, value, "three finite numbers, one per channel")
    red, green, blue = (float(number) for number in values)
    return red, green, blue
