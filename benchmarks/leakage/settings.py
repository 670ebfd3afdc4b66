"""What is to be measured."""

from __future__ import annotations

from dataclasses import dataclass

from aligned_vq.errors import ConfigError


@dataclass(frozen=True)
class LeakageSettings:
    """What is attacked, and with how much effort.

    Args:
        points: operating points of the shipped bundle, at its own cut.
        cuts: where a codec is calibrated that gives every token an index or more.
        codebook_sizes: of those codecs' residual stages; also fewer of them are measured.
        unquantized: at every cut also the features themselves, in float16.
        train_pictures: that each decoder learns from, of the training split.
        calibration_pictures: others of it, for the codecs.
        test_pictures: that figures are of, of the test split, with up to 8 questions each.
        steps: of each decoder's training, with 16 pictures each.
        width: channels of a decoder's convolutions.
        blocks: how many of them there are.
        pixels_per_token: along a side of what is recovered; a token is 14 pixels of the picture.
        samples: pictures kept in a row.
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
        """How many pictures the codecs take for themselves, before the decoders'."""
        return self.calibration_pictures if self.cuts else 0
