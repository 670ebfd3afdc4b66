"""Classifier bundles: written, read back, and refused where they do not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aligned_vq.classifier.files import (
    CLASSIFIER_FILES,
    LABELS,
    MANIFEST,
    ClassifierContent,
    read_classifier,
    read_embeddings,
    write_classifier,
)
from aligned_vq.classifier.manifest import ClassifierManifest
from aligned_vq.cli import main
from aligned_vq.codec.bundle_files import file_digest
from aligned_vq.errors import ConfigError
from tests.classifier import bundles

NAN = float("nan")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.write_bundle(tmp_path_factory.mktemp("classifier") / "bundle")


def test_it_is_read_as_written(bundle: Path) -> None:
    manifest = read_classifier(bundle)
    assert sorted(path.name for path in bundle.iterdir()) == sorted(CLASSIFIER_FILES)
    for name in ("name", "template", "label_sets", "modalities", "image_std"):
        assert getattr(manifest, name) == getattr(bundles.MANIFEST, name)
    assert manifest.labels_digest == file_digest((bundle / LABELS).read_bytes())
    again = ClassifierManifest.from_json(manifest.to_json())
    assert again == manifest
    assert again.digest() == manifest.digest()
    rows = read_embeddings(bundle, manifest)["greys"]
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1)


def test_inspect_shows_it(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundle), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["manifest_digest"] == read_classifier(bundle).digest().hex()
    assert [own["name"] for own in shown["label_sets"]] == ["colours", "greys"]


def test_it_replaces_a_bundle_without_its_old_files(bundle: Path, tmp_path: Path) -> None:
    folder = bundles.write_bundle(tmp_path / "bundle")
    bundles.write_bundle(folder, with_text=False)
    assert sorted(path.name for path in folder.iterdir()) == sorted(CLASSIFIER_FILES[:3])
    assert not read_classifier(folder).takes_any_label


def test_it_does_not_replace_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        bundles.write_bundle(tmp_path)


def entry(greys: Any, logit_scale: Any = 10.0, statistics: Any = None) -> dict[str, Any]:
    """A modality in the JSON."""
    return {"logit_scale": logit_scale, "range": greys, "statistics": statistics}


STATISTICS = entry(None, statistics={"mean": [0.0, 0.0, 0.0], "spread": [1.0, 0.0, 1.0]})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema_version": 2}, "expected classifier schema 1, got 2"),
        ({"name": 3}, "name of ClassifierManifest must be str, got 3"),
        ({"embedding_dim": 0}, "embedding_dim must be 1 to"),
        ({"embedding_dim": 4.0}, "embedding_dim of ClassifierManifest must be int"),
        (
            {"modalities": {"rgb": entry(None, 0)}},
            "logit_scale must be above 0",
        ),
        (
            {"modalities": {"rgb": entry(None, NAN)}},
            "NaN is not a JSON number",
        ),
        (
            {"modalities": {"rgb": entry(None, "1")}},
            "wrong type",
        ),
        (
            {"modalities": {"rgb": {"range": None, "statistics": None}}},
            "missing, unknown or of the wrong type",
        ),
        ({"modalities": {"rgb": None}}, "wrong type"),
        ({"template": "a photo"}, "expected a template with {label}"),
        ({"template": "{label} {x}"}, "remove other braces"),
        ({"side_px": 0}, "size is (0, 0)"),
        ({"image_std": [0, 1, 1]}, "image_std is"),
        ({"image_mean": [0, 1]}, "image_mean is"),
        ({"modalities": {}}, "one or more modalities"),
        ({"modalities": {"radar": entry(None)}}, "got 'radar'"),
        ({"modalities": {"depth": entry(None)}}, "got 'depth' with None"),
        ({"modalities": {"depth": entry({"fixed": [4, 1]})}}, "expected a fixed range (low, high)"),
        ({"modalities": {"depth": entry({"low": 1})}}, "got 'low'"),
        ({"label_sets": []}, "one or more label sets"),
        ({"label_sets": [{"name": "a,b", "labels": ["x"]}]}, "without commas"),
        ({"label_sets": [{"name": "a", "labels": []}]}, "label set 'a': expected 1 to"),
        ({"label_sets": [{"name": "a", "labels": ["x", "X"]}]}, "one probability"),
        ({"label_sets": [{"name": "a", "labels": [" x"]}]}, "strip them"),
        ({"text_digest": None}, "text_digest and tokenizer_digest together"),
        ({"more": 1}, "missing, unknown or of the wrong type"),
    ],
)
def test_a_manifest_that_is_refused(
    bundle: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    values = json.loads((bundle / MANIFEST).read_text()) | changes
    (tmp_path / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(ConfigError) as caught:
        read_classifier(tmp_path)
    assert words in str(caught.value)
    assert str(tmp_path / MANIFEST) in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "{}", "[" * 100_000, "\x00\xff"])
def test_a_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text, "latin-1")
    with pytest.raises(ConfigError, match=r"classifier\.json: "):
        read_classifier(tmp_path)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"colours": np.ones((3, 4), np.float32)}, "expected embeddings of shape"),
        ({"colours": np.ones((3, 4)), "greys": np.ones((2, 4))}, "finite float32"),
        (
            {"colours": np.full((3, 4), NAN, np.float32), "greys": np.ones((2, 4), np.float32)},
            "finite float32",
        ),
    ],
)
def test_embeddings_that_are_refused(tmp_path: Path, rows: dict[str, Any], words: str) -> None:
    content = ClassifierContent(bundles.MANIFEST, bundles.image_graph(), rows)
    with pytest.raises(ConfigError, match=words):
        write_classifier(tmp_path / "bundle", content)
    assert not (tmp_path / "bundle").exists()


def test_text_files_that_are_refused(tmp_path: Path) -> None:
    greys = bundles.MANIFEST.label_sets[1:]
    content = ClassifierContent(
        replace(bundles.MANIFEST, label_sets=greys),
        bundles.image_graph(),
        {"greys": np.ones((2, 4), np.float32)},
        bundles.text_graph(),
    )
    with pytest.raises(ConfigError, match="its tokenizer together"):
        write_classifier(tmp_path / "bundle", content)
    with pytest.raises(ConfigError, match="call enable_padding"):
        write_classifier(tmp_path / "bundle", replace(content, tokenizer=b'{"padding": null}'))
