"""Accuracy of the edge's ONNX graph, in full precision and with 8-bit weights; reference model.

Evaluates the shipped bundle three times with the same cloud half: the edge with torch, with the
shipped graph, and with a graph written by `aligned-vq export-onnx --int8`. Differences are relative
to torch, in percentage points with paired 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from aligned_vq.codec.bundle import open_cloud_bundle, open_edge_bundle
from aligned_vq.codec.bundle_files import read_manifest
from aligned_vq.data.scenes.exam import exam_images
from aligned_vq.evaluation.codec_path import CodecPath, CutCodec
from aligned_vq.evaluation.examiner import Evaluator, Examination
from aligned_vq.evaluation.llava import LoadedLlava
from aligned_vq.files.atomic_file import write_json
from aligned_vq.graph.writing import write_graph
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from aligned_vq.types import Encoded, Payload, StageIndices
from edge_client.backends.base import Backend
from edge_client.backends.choice import open_backend

_NOT_SENT = -1


class BackendPath(CodecPath):
    """The evaluation path of the shipped bundle, with its edge run by an edge client's backend."""

    def __init__(self, examiner: Evaluator, name: str, backend: Backend, quality: str) -> None:
        edge, cloud = open_edge_bundle(BUNDLE), open_cloud_bundle(BUNDLE)
        split = edge.manifest.split
        codec = CutCodec(split, edge.prefix, edge.codec, cloud.codec, settings={})
        super().__init__(examiner, name, codec)
        self._backend, self._quality = backend, quality

    def _send(self, pixels: Tensor) -> Payload:
        output = self._backend.run_prefix(pixels[0].numpy())
        return self._backend.spec.compress(output, self._quality)


def differing_share(reference: Sequence[Encoded], others: Sequence[Encoded]) -> float:
    """The share of the reference's indices that `others` lack or have with another value."""
    differing = sent = 0
    for image, other in zip(reference, others, strict=True):
        for number, stage in enumerate(image.stages):
            rows = _rows(stage, image.num_tokens)
            differing += int((rows != _rows(other.stages[number], image.num_tokens)).sum())
            # Indices of the other image alone count as differing, not as sent.
            sent += stage.indices.size
    return differing / sent


def _rows(stage: StageIndices, num_tokens: int) -> NDArray[np.int32]:
    """Indices `[N, groups]` of all tokens, `_NOT_SENT` for tokens that the stage leaves out."""
    rows = np.full((num_tokens, stage.indices.shape[1]), _NOT_SENT, np.int32)
    rows[slice(None) if stage.mask is None else stage.mask] = stage.indices
    return rows


def _figures(examination: Examination, reference: Examination) -> dict[str, Any]:
    verdicts = examination.verdicts
    return {
        "answers": verdicts.answers,
        "words": verdicts.words,
        "answers_difference": verdicts.answers_against(reference.verdicts),
        "words_difference": verdicts.words_against(reference.verdicts),
        "mean_bytes": float(examination.costs.sent_bytes.mean()),
        "differing_indices": differing_share(reference.encoded, examination.encoded),
    }


def main() -> int:
    """Print the figures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--qualities", nargs="+", default=["medium"])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    examiner = Evaluator(LoadedLlava.load(CHECKPOINT), list(exam_images(options.questions)))
    results: dict[str, Any] = {"questions": options.questions}
    with tempfile.TemporaryDirectory() as folder:
        int8 = Path(shutil.copytree(BUNDLE, Path(folder) / "bundle"))
        write_graph(int8, int8=True)
        backends = {
            "torch": open_backend(BUNDLE, read_manifest(BUNDLE), "torch"),
            "onnx": open_backend(BUNDLE, read_manifest(BUNDLE), "onnx"),
            "onnx int8": open_backend(int8, read_manifest(int8), "onnx"),
        }
        for quality in options.qualities:
            reference: Examination | None = None
            for name, backend in backends.items():
                path = BackendPath(examiner, f"{name} {quality}", backend, quality)
                examination = examiner.examine(path, path.name)
                reference = reference or examination  # torch comes first
                results[path.name] = figures = _figures(examination, reference)
                print(path.name, json.dumps(figures), flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
