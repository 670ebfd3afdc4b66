"""LeakageSettings of the leakage measurement."""

from __future__ import annotations

from dataclasses import dataclass

from aligned_vq.errors import ConfigError


@dataclass(frozen=True)
class LeakageSettings:
    """Codecs under attack, and the effort of the attack.

    Args:
        points: operating points of the shipped bundle, at the bundle's cut.
        cuts: at each, a codec is calibrated whose every stage covers every token.
        codebook_sizes: of the residual stages of those codecs; measured with one stage, two, ...
        unquantized: at every cut, also measure float16 features without a codec.
        train_pictures: images of the training split on which each decoder is trained.
        calibration_pictures: other images of that split, for the codecs.
        test_pictures: images of the test split for all figures, with up to 8 questions each.
        steps: of each decoder's training, with 16 images each.
        width: channels of a decoder's convolutions.
        blocks: number of a decoder's residual blocks.
        pixels_per_token: along a side of a reconstruction; a token is 14 pixels of the image.
        samples: images in a row of the result.
        seed: of calibration and training.
    """

    points: tuple[str, ...] = ("low", "medium", "high", "fixed")
    cuts: tuple[str, ...] = ("pre", "ln1@0", "ln1@1", "ln2@0", "ln2@4")
    codebook_sizes: tuple[int, ...] = (4096, 4096)
    unquantized: bool = True
    train_pictures: int = 192
    calibration_pictures: int = 128
    test_pictures: int = 40
    steps: int = 150
    width: int = 64
    blocks: int = 4
    pixels_per_token: int = 7
    samples: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.train_pictures, self.calibration_pictures, self.test_pictures, self.steps)
        sizes = (self.width, self.blocks, self.pixels_per_token, self.samples)
        if min(*counts, *sizes, *self.codebook_sizes) < 1 or not (self.points or self.cuts):
            raise ConfigError("expected a point or a cut, and counts of 1 or more, got fewer")
        if self.cuts and not self.codebook_sizes:
            raise ConfigError("expected codebook_sizes for the cuts, got none; give one or more")

    @property
    def first_pictures(self) -> int:
        """Number of images for calibration, which come before those of the decoders."""
        return self.calibration_pictures if self.cuts else 0
