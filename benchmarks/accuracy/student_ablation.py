"""What each step of a student's training gives, for several students.

    python -m benchmarks.accuracy.student_ablation --out runs/ablation

Rows, as in table 6 of EdgeVL: stage 1 in float32; quantised after training; quantisation-aware
training without triplets; stage 2. Then stage 1 on one modality alone, and both losses at once from
random weights. Scores are top-1 on the labelled pairs of `--split`, which no training sees. A run
that is stopped goes on with the same command.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from aligned_vq.data.pairs.sources import open_pairs
from aligned_vq.dual_encoder.prompts import prompt
from aligned_vq.edgevl.config import StudentRunConfig
from aligned_vq.edgevl.pool import SIDES, PairArrays, embed
from aligned_vq.edgevl.preparation import prepare_pairs
from aligned_vq.edgevl.run import StudentRun
from aligned_vq.edgevl.scoring import probabilities_of, score
from aligned_vq.edgevl.students.config import ARCHITECTURES
from aligned_vq.files.atomic_file import write_json
from aligned_vq.files.config_file import config_of, read_settings
from aligned_vq.images.depth import RangeSettings
from benchmarks.accuracy.recognition import labelled
from benchmarks.harness.provenance import provenance

STUDENTS = tuple(f"reference-{architecture}" for architecture in ARCHITECTURES)
SHARED = ("pairs", "pseudo_labels.csv", "confidence.png")
"""Files of a run that do not depend on the student."""


class Variant(NamedTuple):
    """A row: what differs from the configured run."""

    name: str
    changes: tuple[str, ...]
    """Settings, as `edgevl-train --set` takes them; STEPS is the configured number of stage 1."""
    int8: bool = True
    same_stage_1: bool = True


VARIANTS = (
    Variant("stage 1, float32", ("contrast.steps=0",), int8=False),
    Variant("quantised after training", ("contrast.steps=0",)),
    Variant("quantisation-aware, no triplets", ("contrast.triplets=0",)),
    Variant("stage 2", ()),
    Variant("stage 1, rgb alone", ("contrast.steps=0", "distill.other=0"), False, False),
    Variant("stage 1, other alone", ("contrast.steps=0", "distill.rgb=0"), False, False),
    Variant("both losses at once", ("distill.steps=0", "contrast.steps=STEPS"), True, False),
)


class Test(NamedTuple):
    """Labelled pairs that no training sees."""

    pairs: PairArrays
    truth: list[str]
    labels: list[str]


class Base(NamedTuple):
    """The configuration that rows change."""

    path: Path
    changes: tuple[str, ...]

    def config(self, *more: str) -> StudentRunConfig:
        """With more changes; STEPS in one of them is replaced."""
        changes = list(self.changes)
        for change in more:
            steps = str(self.config().distill.steps) if "STEPS" in change else ""
            changes.append(change.replace("STEPS", steps))
        settings = read_settings(self.path, "a student's run", changes)
        return config_of(StudentRunConfig(), settings, str(self.path))


def rows(base: Base, student_name: str, out: Path, test: Test) -> Iterator[dict[str, Any]]:
    """The rows of one student; runs lie below `out`."""
    stage_1: Path | None = None
    for variant in VARIANTS:
        # Rows of equal settings share a run, as the first two do.
        folder = out / student_name / "_".join(variant.changes or ("whole",))
        _share(out, folder, SHARED)
        if variant.same_stage_1 and stage_1 is not None:
            _share(stage_1, folder, ("distill",))
        run = StudentRun(base.config(f"student={student_name}", *variant.changes), folder)
        _share(folder, out, SHARED)
        stage_1_student = run.distill()
        if variant.same_stage_1:
            stage_1 = folder
        student = run.quantize(stage_1_student) if variant.int8 else stage_1_student
        yield {"student": student_name, "row": variant.name, **_scores(run, student, test)}


def _share(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Link what is in `source` and not yet in `target`; both are on one file system."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        there, here = source / name, target / name
        if here.exists() or not there.exists():
            continue
        if there.is_dir():
            # Copies: a stage replaces the files of its state.
            copy = shutil.copyfile if name == "distill" else os.link
            shutil.copytree(there, here, copy_function=copy)
        else:
            shutil.copyfile(there, here)


def _scores(run: StudentRun, student: nn.Module, test: Test) -> dict[str, float]:
    """Percentages of right labels in each modality, and their mean."""
    prompts = [prompt(label, run.config.pairs.template) for label in test.labels]
    texts = run.teacher.text_embeddings(prompts).cpu()
    found = {
        side: _percent(embed(student.eval(), test.pairs, run.prepare, side), texts, test)
        for side in SIDES
    }
    return found | {"mean": round(sum(found.values()) / len(found), 1)}


def _percent(images: Tensor, texts: Tensor, test: Test) -> float:
    scored = score(probabilities_of(images, texts, 1.0), test.truth, test.labels)
    return round(100 * scored.accuracy, 1)


def main() -> int:
    """Print a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("examples/student.yaml"))
    parser.add_argument("--set", nargs="*", default=[], help="changed settings")
    parser.add_argument("--split", default="valid", help="of the pairs, with labels")
    parser.add_argument("--students", nargs="+", default=list(STUDENTS))
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    options = parser.parse_args()
    base = Base(options.config, tuple(options.set))
    config = base.config()
    source = open_pairs(config.pairs.train, options.split)
    truth, labels = labelled(source)
    pairs = prepare_pairs(source, options.out / "test", config.pairs.side_px, RangeSettings())
    test = Test(pairs, truth, labels)
    done: list[dict[str, Any]] = []
    for student_name in options.students:
        for row in rows(base, student_name, options.out, test):
            done.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            write_json(options.out / "ablation.json", {"rows": done, **provenance()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
