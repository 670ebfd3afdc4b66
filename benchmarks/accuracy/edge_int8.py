"""What the edge's ONNX graph costs, in full precision and with weights of 8 bits, reference model.

The shipped bundle three times: its edge with torch, with its graph, and with a graph written by
`aligned-vq export-onnx --int8`; the cloud is the same. Differences, with paired 95 % intervals in
points, are to torch.
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
from aligned_vq.files.atomic_file import write_file
from aligned_vq.graph.writing import write_graph
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from aligned_vq.types import Encoded, Payload, StageIndices
from edge_client.backends.base import Backend
from edge_client.backends.choice import open_backend

_NOT_SENT = -1


class BackendPath(CodecPath):
    """The shipped bundle's path, its edge run by a backend of the edge client."""

    def __init__(self, examiner: Evaluator, name: str, backend: Backend, quality: str) -> None:
        edge, cloud = open_edge_bundle(BUNDLE), open_cloud_bundle(BUNDLE)
        split = edge.manifest.split
        codec = CutCodec(split, edge.prefix, edge.codec, cloud.codec, settings={})
        super().__init__(examiner, name, codec)
        self._backend, self._quality = backend, quality

    def _send(self, pixels: Tensor) -> Payload:
        output = self._backend.run_prefix(pixels[0].numpy())
        return self._backend.spec.compress(output, self._quality)


def differing_share(ours: Sequence[Encoded], theirs: Sequence[Encoded]) -> float:
    """Of all indices sent by `ours`, those that `theirs` does not send or that are others."""
    differing = sent = 0
    for image, other in zip(ours, theirs, strict=True):
        for number, stage in enumerate(image.stages):
            rows = _rows(stage, image.num_tokens)
            differing += int((rows != _rows(other.stages[number], image.num_tokens)).sum())
            sent += stage.indices.size
    return differing / sent


def _rows(stage: StageIndices, num_tokens: int) -> NDArray[np.int32]:
    rows = np.full((num_tokens, stage.indices.shape[1]), _NOT_SENT, np.int32)
    rows[slice(None) if stage.mask is None else stage.mask] = stage.indices
    return rows


def _figures(found: Examination, reference: Examination) -> dict[str, Any]:
    verdicts = found.verdicts
    return {
        "answers": verdicts.answers,
        "words": verdicts.words,
        "answers_difference": verdicts.answers_against(reference.verdicts),
        "words_difference": verdicts.words_against(reference.verdicts),
        "mean_bytes": float(found.costs.sent_bytes.mean()),
        "differing_indices": differing_share(reference.encoded, found.encoded),
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
                found = examiner.examine(path, path.name)
                reference = reference or found
                results[path.name] = figures = _figures(found, reference)
                print(path.name, json.dumps(figures), flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_file(options.out, json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
