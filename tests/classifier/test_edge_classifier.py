"""EdgeClassifier: labels and probabilities, and what is refused."""

from __future__ import annotations

import io
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aligned_vq.classifier.files import IMAGE, LABELS, TEXT, TOKENIZER
from aligned_vq.classifier.manifest import ModalityInput
from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.images.depth import RangeSettings, student_pixels
from aligned_vq.images.load import load_pixels
from aligned_vq.images.preparation import Preparation
from aligned_vq.images.preprocess import View, normalize
from edge_client import EdgeClassifier
from edge_client.classifier import label_embeddings
from edge_client.decoding.blocking_decoders import BlockingDecoders
from edge_client.decoding.job import Limits, TooCostly
from edge_client.gateway.request_images import MAX_IMAGE_BYTES
from tests.classifier.bundles import (
    CONTEXT,
    LOGIT_SCALE,
    RANGES,
    SIDE,
    plain,
    text_graph,
    with_modalities,
    write_bundle,
)

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("classifier") / "bundle")


@pytest.fixture(scope="module")
def classifier(bundle: Path) -> EdgeClassifier:
    return EdgeClassifier(bundle, threads=1)


def test_the_default_labels(classifier: EdgeClassifier) -> None:
    found = classifier.classify(plain(GREEN))
    assert found.best == "green"
    assert [own.label for own in found] == [
        own.label for own in sorted(found, key=lambda own: -own.probability)
    ]
    assert sum(own.probability for own in found) == pytest.approx(1)
    assert found.model_ms > 0


def test_probabilities_are_the_softmax_of_scaled_cosines(classifier: EdgeClassifier) -> None:
    found = classifier.classify(plain((255, 255, 0)), ["red", "green", "blue"])
    # [1, 1, -1] against [1, -1, -1] and so on, with a little of the fourth direction.
    cosines = np.array([1, 1, -3]) / np.sqrt(3 * (3 + 0.01**2))
    weights = np.exp(LOGIT_SCALE * cosines)
    expected = dict(zip(("red", "green", "blue"), weights / weights.sum(), strict=True))
    assert {own.label: own.probability for own in found} == pytest.approx(expected)


def test_each_modality_has_its_own_temperature(tmp_path: Path) -> None:
    certain, unsure = ModalityInput("rgb", 10.0), ModalityInput("infrared", 0.1, RangeSettings())
    with EdgeClassifier(
        write_bundle(tmp_path / "bundle", manifest=with_modalities(certain, unsure)), threads=1
    ) as own:
        slope = np.linspace(200, 255, SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE)
        rgb, infrared = (
            own.classify(slope, "greys", modality).probability("white")
            for modality in ("rgb", "infrared")
        )
    assert rgb > 0.99
    assert 0.4 < infrared < 0.6


def test_a_label_set_by_name(classifier: EdgeClassifier) -> None:
    assert classifier.classify(plain((250, 250, 250)), "greys").best == "white"
    with pytest.raises(InvalidInput, match=r"\(colours, greys\), got 'rooms'"):
        classifier.classify(plain(RED), "rooms")


def test_any_label_by_the_text_encoder(classifier: EdgeClassifier) -> None:
    found = classifier.classify(plain((255, 255, 0)), ["red wall", "blue wall", "yellow wall"])
    assert found.best == "yellow wall"
    # The same label from the bundle and from the text encoder.
    known, made = (classifier._labels.of([label])[1] for label in ("red", "red wall"))
    assert np.allclose(known, made, atol=0.01)


def test_without_a_text_encoder_only_known_labels(tmp_path: Path) -> None:
    own = EdgeClassifier(write_bundle(tmp_path / "bundle", with_text=False))
    assert own.classify(plain(BLUE), ["blue", "white", "black"]).best == "blue"
    assert not own.takes_any_label
    with pytest.raises(
        InvalidInput, match=r"no text encoder \(text.onnx\), got 'yellow'; choose from.*black"
    ):
        own.classify(plain(RED), ["red", "yellow"])


def test_without_the_package_tokenizers(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = EdgeClassifier(bundle)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert own.classify(plain(RED), ["red", "white"]).best == "red"
    with pytest.raises(ConfigError, match=r"install aligned-vq\[classify\]"):
        own.classify(plain(RED), ["red", "yellow"])


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([], "got 0"),
        (["red", " "], "labels with text"),
        (["red", "Red "], "would share one probability"),
        ([f"label {n}" for n in range(10_000)], "1 to 1000 labels, got 10000"),
        (["x" * 10_000], "at most 200 characters"),
    ],
)
def test_labels_that_are_refused(classifier: EdgeClassifier, labels: list[str], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        classifier.classify(plain(RED), labels)


def test_a_label_of_too_many_tokens(classifier: EdgeClassifier) -> None:
    label = " ".join(["red"] * CONTEXT)
    # "a photo of a" and the two ends are tokens, too.
    words = rf"at most {CONTEXT} tokens, got {CONTEXT + 6} for '{label}'"
    with pytest.raises(InvalidInput, match=words):
        classifier.classify(plain(RED), [label, "blue"])
    fitting = " ".join(["red"] * (CONTEXT - 6))
    assert classifier.classify(plain(RED), [fitting, "blue"]).best == fitting


def test_special_tokens_are_text(classifier: EdgeClassifier, bundle: Path) -> None:
    tokenizer, _ = classifier._labels._text_encoder()
    ids = tokenizer.ids(["x"], ["red [EOS] [PAD]"])[0]
    assert ids.tolist() == [1, 8, *[3] * 6, 2, *[0] * (CONTEXT - 9)]  # brackets and words unknown


def test_a_special_token_that_is_also_a_word(tmp_path: Path) -> None:
    own = EdgeClassifier(write_bundle(tmp_path / "bundle", whitespace=True))
    with pytest.raises(InvalidInput, match=r"got 'red \[EOS\]', in which the tokenizer finds"):
        own.classify(plain(RED), ["red [EOS]", "blue"])
    assert own.classify(plain(RED), ["unheard of", "red wall"]).best == "red wall"


def test_depth_in_millimetres_and_metres(classifier: EdgeClassifier) -> None:
    near, far = np.full((30, 20), 200, np.uint16), np.full((30, 20), 3.9, np.float32)
    assert classifier.classify(near, "greys", "depth").best == "white"  # near is bright
    assert classifier.classify(far, "greys", "depth").best == "black"
    view = classifier.view(near, "depth")
    expected = student_pixels(
        load_pixels(near, "depth"),
        classifier.manifest.processor,
        RANGES[1].range or RangeSettings(),
    )
    assert np.array_equal(normalize(view, classifier.manifest.processor), expected)


def test_a_depth_map_is_not_taken_for_colour(classifier: EdgeClassifier, tmp_path: Path) -> None:
    path = tmp_path / "depth.png"
    Image.fromarray(np.full((30, 20), 2000, np.uint16)).save(path)
    with pytest.raises(InvalidInput, match="depth"):
        classifier.classify(path)
    assert classifier.classify(path, "greys", "depth").best


def test_views_of_other_classifiers_and_cameras(classifier: EdgeClassifier) -> None:
    view = classifier.view(plain(RED))
    assert classifier.classify(view).scores == classifier.classify(plain(RED)).scores
    with pytest.raises(InvalidInput, match=r"make it with `EdgeClassifier\.view`"):
        classifier.classify(View(np.zeros((5, 5, 3), np.uint8)))
    with pytest.raises(InvalidInput, match="got 'infrared'"):
        classifier.classify(View(view.pixels, "infrared"))


def test_an_empty_name_is_none_of_a_label_set(classifier: EdgeClassifier) -> None:
    with pytest.raises(InvalidInput, match="label set"):
        classifier.classify(plain(RED), "")


def test_a_modality_that_the_bundle_has_not(classifier: EdgeClassifier) -> None:
    with pytest.raises(InvalidInput, match=r"\(rgb, depth\), got 'infrared'"):
        classifier.classify(plain(RED), modality="infrared")
    with pytest.raises(InvalidInput, match="depth pixels of uint16 or float32"):
        classifier.classify(plain(RED), modality="depth")


@pytest.mark.parametrize("name", [IMAGE, LABELS, TEXT, TOKENIZER])
def test_a_damaged_file(tmp_path: Path, name: str) -> None:
    folder = write_bundle(tmp_path / "bundle")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{name}: its content does not match.*classifier.json"):
        EdgeClassifier(folder).classify(plain(RED), ["yellow", "red"])


def test_a_graph_of_another_kind(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", graph=text_graph())
    with pytest.raises(ConfigError, match=r"expected the input pixels.*got \['ids'\]"):
        EdgeClassifier(folder)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a classifier bundle with .*classifier.json"):
        EdgeClassifier(tmp_path)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"threads": "2"}, "threads must be an integer"),
        ({"threads": True}, "threads must be an integer"),
        ({"image_formats": "JPEG"}, "got 'JPEG'; list some"),
        ({"image_formats": ()}, "expected image_formats from AVIF"),
        ({"image_formats": ("SVG", 3)}, "got SVG, 3"),
        ({"image_seconds": "1"}, "image_seconds must be a positive number, got '1'"),
        ({"image_seconds": float("nan")}, "image_seconds must be a positive number"),
    ],
)
def test_settings_that_are_refused(bundle: Path, setting: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        EdgeClassifier(bundle, **setting)


def test_the_cache_of_labels_is_bounded(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_embeddings, "MAX_CACHED_LABELS", 8)
    own = EdgeClassifier(bundle)
    own.classify(plain(RED), [f"wall {n}" for n in range(50)])
    assert list(own._labels._cached) == [f"wall {n}" for n in range(42, 50)]
    own.classify(plain(RED), ["wall 42"])
    assert list(own._labels._cached)[-1] == "wall 42"


def test_several_threads_at_once(bundle: Path) -> None:
    own, found = EdgeClassifier(bundle), {}

    def work(number: int) -> None:
        colour = (RED, GREEN, BLUE)[number % 3]
        labels = [f"red {number}", f"green {number}", f"blue {number}"]
        found[number] = [own.classify(plain(colour), labels).best for _ in range(20)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = ("red", "green", "blue")
    assert found == {number: [f"{names[number % 3]} {number}"] * 20 for number in range(6)}


@pytest.mark.parametrize("grey_range", [RangeSettings(fixed=(0.0, 4.0)), RangeSettings()])
def test_the_memory_of_a_depth_image(classifier: EdgeClassifier, grey_range: RangeSettings) -> None:
    """Of 1920 x 1080 pixels it suffices, as every step is limited to it; larger ones say so."""
    preparation = Preparation(classifier.manifest.processor, "depth", grey_range)
    limits = Limits(("PNG",), memory_bytes=MAX_IMAGE_BYTES, seconds=60.0)
    with closing(BlockingDecoders(classifier.manifest.processor, limits)) as decoders:
        view = decoders.decode(depth_png(1080, 1920), "the image", preparation).view
        assert view.pixels.shape == (SIDE, SIDE, 3)
        with pytest.raises(TooCostly, match=r"PNG, 2000 x 1200\) takes 74 MiB"):
            decoders.decode(depth_png(1200, 2000), "the image", preparation)


def depth_png(height: int, width: int) -> bytes:
    """A ramp with holes, in millimetres."""
    values = np.arange(height * width, dtype=np.uint32).reshape(height, width) % 5000
    written = io.BytesIO()
    Image.fromarray(values.astype(np.uint16)).save(written, "PNG", compress_level=1)
    return written.getvalue()


def test_an_isolated_image_is_prepared_alike(bundle: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)
    colour, depth = tmp_path / "colour.png", tmp_path / "depth.png"
    Image.fromarray(pixels).save(colour)
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 15).save(depth)
    with EdgeClassifier(bundle, isolate_images=True) as apart:
        here = EdgeClassifier(bundle)
        for path, modality in ((colour, "rgb"), (depth, "depth")):
            assert apart.view(path, modality) == here.view(path, modality)
            assert apart.view(path.read_bytes(), modality) == here.view(path, modality)
