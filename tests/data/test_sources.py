"""Specs, folders of pictures, the reference world, and pictures that are missing or damaged."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligned_vq.data.examples import ExampleSource
from aligned_vq.data.scenes.exam import exam_images
from aligned_vq.data.sources import open_source
from aligned_vq.errors import InvalidInput
from aligned_vq.images.load import load_image
from tests.data.source_files import LlavaFolder, assert_refused, conversation, paint, shade


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return tmp_path / "work" / "run"


@pytest.fixture
def llava(tmp_path: Path) -> LlavaFolder:
    return LlavaFolder(tmp_path / "llava")


def test_the_first_images_are_checked_at_once(llava: LlavaFolder, workdir: Path) -> None:
    (llava.folder / "sub/b.png").unlink()
    wanted = llava.folder / "sub/b.png"
    assert_refused(
        lambda: llava.open(workdir), llava.path, "record 2 (id 7)", wanted, "after a '#'"
    )


def test_a_later_image_is_missed_at_access(llava: LlavaFolder, workdir: Path) -> None:
    llava.records = [llava.records[0]] * 16 + [conversation("late.png", "q", "a", id="late")]
    llava.write()
    source = llava.open(workdir)
    assert_refused(lambda: source[16], "record 16 (id 'late')", llava.folder / "late.png")


@pytest.mark.parametrize("name", ["cut.jpg", "cut.png", "text.png", "empty.png", "ps.png"])
def test_a_damaged_image_is_named(llava: LlavaFolder, workdir: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = llava.folder / name
    Image.fromarray(noise).save(path)
    spoiled = {"text": b"hello", "empty": b"", "ps": b"%!PS-Adobe-3.0 EPSF-3.0\n"}
    path.write_bytes(spoiled.get(path.stem, path.read_bytes()[:2000]))
    llava.records[2]["image"] = name
    llava.write()
    assert_refused(lambda: llava.open(workdir), "record 2 (id 7)", path, kind=InvalidInput)


def test_a_folder_of_pictures(tmp_path: Path, workdir: Path) -> None:
    folder = tmp_path / "pictures"
    paint(folder / "b.PNG", 2)
    paint(folder / "a/c.webp", 1, lossless=True)
    paint(folder / "linked/d.png", 3)
    paint(tmp_path / "outside/e.png", 4)
    paint(folder / ".hidden/f.png", 5)
    paint(folder / "a/._c.png", 6)
    (folder / "notes.txt").write_text("no picture")
    (folder / "linked/out").symlink_to(tmp_path / "outside")
    (folder / "linked/up").symlink_to(folder)
    opened = open_source(f"images:{folder}", workdir)
    for source in (opened, pickle.loads(pickle.dumps(opened))):
        assert [shade(source, index) for index in range(len(source))] == [1, 2, 3, 4]
        assert source[0].pairs == ()
    (folder / "b.PNG").unlink()
    assert_refused(lambda: opened[1], folder / "b.PNG", "do not change the folder")


def test_folders_without_pictures(tmp_path: Path, workdir: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for folder in (tmp_path, tmp_path / "none", tmp_path / "notes.txt"):
        assert_refused(partial(open_source, f"images:{folder}", workdir), folder)


@pytest.mark.parametrize(
    ("mode", "shown"), [("L", 40), ("RGBA", 221), ("LA", 221), ("RGB", 40), ("CMYK", 181)]
)
def test_pictures_become_rgb(tmp_path: Path, workdir: Path, mode: str, shown: int) -> None:
    """Half-transparent pixels show white behind them: 40 of 255 opaque gives 255 - 40 * 215/255."""
    suffix = "tif" if mode == "CMYK" else "png"
    paint(tmp_path / f"in/a.{suffix}", 40, mode)
    assert shade(open_source(f"images:{tmp_path / 'in'}", workdir), 0) == shown


def test_deep_grey_is_scaled_as_when_it_is_served(tmp_path: Path, workdir: Path) -> None:
    path = paint(tmp_path / "a.png", 25_700, "I;16")
    assert shade(open_source(f"images:{tmp_path}", workdir), 0) == 100
    served = load_image(path)
    assert open_source(f"images:{tmp_path}", workdir)[0].image.tobytes() == served.tobytes()


def test_exif_orientation_is_applied(tmp_path: Path, workdir: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    paint(tmp_path / "a.jpg", exif=exif)
    image = open_source(f"images:{tmp_path}", workdir)[0].image
    assert image.size == (4, 6)
    assert not image.getexif()


def test_the_reference_world(workdir: Path) -> None:
    source = open_source("reference:3", workdir)
    copy: ExampleSource = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 1000
    for index, exam in zip(range(3), exam_images(24, "codec"), strict=False):
        for example in (source[index], copy[index], source[index]):
            assert example.pairs == tuple((q.text, q.answer) for q in exam.questions)
            assert example.image.tobytes() == exam.image.tobytes()
    assert len(source) == 3
    with pytest.raises(IndexError):
        source[3]


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "coco:/x",
        "images",
        "images:",
        "images:/x#train",
        "llava:/x#",
        "vqav2:#val2014",
        "reference:0",
        "reference:-1",
        "reference:many",
        "reference:²",
        "reference:3#train",
    ],
)
def test_a_spec_that_says_nothing(workdir: Path, spec: str) -> None:
    assert_refused(lambda: open_source(spec, workdir), repr(spec), "llava:FILE.json")
