"""Chooses the pairs to learn from: those of which the teacher is most certain (EdgeVL, 3.1)."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from aligned_vq.edgevl.scoring import probabilities_of
from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_file import write_file
from aligned_vq.files.figures import line_style, save_figure

_COLUMNS = ("name", "label", "confidence", "kept")


@dataclass(frozen=True)
class PseudoLabels:
    """The teacher's most probable label of each pair, from its colour image.

    Args:
        names: of the pairs.
        labels: one for each pair.
        confidence: float32 `[N]`, the label's probability.
        kept: bool `[N]`, whether the pair is used for training.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    confidence: NDArray[np.float32]
    kept: NDArray[np.bool_]

    def counts(self) -> dict[str, int]:
        """Kept pairs of each label that has any pair, most first; 0 where none is kept."""
        every = Counter(dict.fromkeys(self.labels, 0))
        every.update(label for label, kept in zip(self.labels, self.kept, strict=True) if kept)
        return dict(every.most_common())

    def write(self, path: Path) -> None:
        """Replace a CSV file that `read_pseudo_labels` reads."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for name, label, confidence, kept in zip(
            self.names, self.labels, self.confidence, self.kept, strict=True
        ):
            writer.writerow((name, label, f"{confidence:.6f}", int(kept)))
        write_file(path, text.getvalue())


def read_pseudo_labels(path: Path) -> PseudoLabels:
    """The pseudo-labels in a file; ConfigError if it cannot be read or has other columns."""
    try:
        rows = list(csv.reader(io.StringIO(path.read_text("utf-8"))))
        if tuple(rows[0]) != _COLUMNS:
            raise ValueError(f"columns {rows[0]}")
        names, labels, confidence, kept = zip(*rows[1:], strict=True)
        return PseudoLabels(
            names,
            labels,
            np.array([float(value) for value in confidence], np.float32),
            np.array([bool(int(value)) for value in kept]),
        )
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(
            f"expected pseudo-labels with the columns {', '.join(_COLUMNS)} in {path}, got: "
            f"{error}; remove the file to curate again"
        ) from error


def curate(
    names: Sequence[str], images: Tensor, texts: dict[str, Tensor], scale: float, keep: float
) -> PseudoLabels:
    """Pseudo-labels of all pairs, of which the share `keep` with the highest confidence is kept.

    Args:
        names: of the pairs.
        images: unit vectors `[N, D]` of the teacher.
        texts: the teacher's unit vectors `[D]` by label.
        scale: of cosines before the softmax.
        keep: above 0, at most 1.
    """
    labels = list(texts)
    stacked = np.stack([texts[label].numpy() for label in labels])
    probabilities = probabilities_of(images, images.new_tensor(stacked), scale).numpy()
    confidence = probabilities.max(1).astype(np.float32)
    best = probabilities.argmax(1)
    threshold = np.quantile(confidence, 1 - keep, method="higher") if keep < 1 else 0.0
    return PseudoLabels(
        tuple(names), tuple(labels[number] for number in best), confidence, confidence >= threshold
    )


def plot_confidence(pseudo: PseudoLabels, stem: Path) -> Path:
    """Histogram of the teacher's confidence, with the threshold of what is kept, as `stem`.png."""
    threshold = float(pseudo.confidence[pseudo.kept].min()) if pseudo.kept.any() else 1.0

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.hist(pseudo.confidence, np.linspace(0, 1, 51).tolist(), color=line_style(0)["color"])
        axes.axvline(threshold, color=line_style(1)["color"], ls="--")
        axes.set_xlabel("confidence of the teacher")
        axes.set_ylabel("pairs")
        axes.set_title(f"{int(pseudo.kept.sum())} of {len(pseudo.kept)} pairs are kept")

    return save_figure(draw, stem)
