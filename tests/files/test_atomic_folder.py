"""Folders replaced whole, by an exchange or by two renames, and what is never deleted."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_file import write_file
from aligned_vq.files.atomic_folder import check_replaceable, new_folder, recover
from aligned_vq.files.staging import NotWritten
from tests.disk import files_up_to, mode, umask, unprivileged
from tests.e2e.raw import assert_clear

NAMES = ("a.txt", "b.txt", "*.safetensors")
KILLED_BETWEEN = """
import os, signal, sys
from pathlib import Path
from aligned_vq.files import atomic_folder
atomic_folder.renameat2.exchange = lambda one, other: False
rename = Path.rename
def once(self, target):
    if sys.argv[2] == "last" and Path(target) == Path(sys.argv[1]) and self.is_dir():
        if Path(sys.argv[1]).with_name(".folder.replaced").exists():
            os.kill(os.getpid(), signal.SIGKILL)
    found = rename(self, target)
    if sys.argv[2] == "after" and Path(sys.argv[1]).with_name(".folder.replaced").exists():
        if Path(sys.argv[1]).exists():
            os.kill(os.getpid(), signal.SIGKILL)
    return found
Path.rename = once
with atomic_folder.new_folder(sys.argv[1], ("*.txt",)) as new:
    (new / "a.txt").write_text("new")
"""
REPEATING = """
import sys
from aligned_vq.files.atomic_folder import new_folder
for _ in range(25):
    with new_folder(sys.argv[1], ("*.txt",)) as new:
        for name in ("a.txt", "b.txt"):
            (new / name).write_text(sys.argv[2])
"""


def written(path: Path, **contents: str) -> None:
    with new_folder(path, NAMES) as new:
        for name, content in contents.items():
            (new / f"{name}.txt").write_text(content)


def held(path: Path) -> dict[str, str]:
    return {own.stem: own.read_text() for own in path.iterdir()}


@pytest.fixture(params=["exchange", "two renames"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder's place, on a file system that can exchange and on one that cannot."""
    if request.param != "exchange":
        monkeypatch.setattr("aligned_vq.files.renameat2.exchange", lambda one, other: False)
    return tmp_path / "folder"


def test_a_new_folder_replaces_the_old_and_nothing_is_left(path: Path) -> None:
    written(path, a="1", b="1")
    written(path, a="2")
    assert held(path) == {"a": "2"}
    assert os.listdir(path.parent) == ["folder"]


@pytest.mark.parametrize(
    ("mask", "files", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)]
)
def test_others_may_read_it(mask: int, files: int, folder: int, tmp_path: Path) -> None:
    with umask(mask), new_folder(tmp_path / "folder", NAMES) as new:
        save_file({"a": np.zeros(3)}, new / "a.safetensors")
        (new / "deep").mkdir(mode=0o700)
        (new / "deep" / "a.txt").touch(0o600)
    found = [tmp_path / "folder" / name for name in ("a.safetensors", "deep/a.txt", "deep", "")]
    assert [mode(own) for own in found] == [files, files, folder, folder]


def test_secrets_keep_their_modes(tmp_path: Path) -> None:
    with new_folder(tmp_path / "folder", (), public=False) as new:
        write_file(new / "key", "secret", secret=True)
        write_file(new / "public", "x")
    modes = [mode(tmp_path / "folder" / name) for name in ("key", "public")]
    assert modes == [0o600, 0o644]


def test_a_folder_keeps_its_own_mode_and_a_link_stays_one(path: Path) -> None:
    real = path.with_name("real")
    path.symlink_to("real")
    written(path, a="1")
    real.chmod(0o2750)
    written(path, a="2")
    assert path.is_symlink()
    assert (held(real), mode(real)) == ({"a": "2"}, 0o2750)


def written_while_another_comes(path: Path) -> None:
    with new_folder(path, NAMES) as new:
        (new / "a.txt").write_text("2")
        (path / "meanwhile").touch()


def refused(path: Path, *named: str) -> None:
    attempts = (partial(check_replaceable, path, NAMES), partial(written, path, a="new"))
    for attempt in attempts:
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert_clear(str(caught.value))
        assert all(name in str(caught.value) for name in named), caught.value


def test_what_is_not_ours_is_not_deleted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(path, a="1")
    (path / "notes").write_text("mine")
    refused(path, "'notes'", "move these away")
    assert held(path) == {"a": "1", "notes": "mine"}
    (path / "notes").unlink()
    with pytest.raises(ConfigError, match="'meanwhile'"):
        written_while_another_comes(path)
    assert held(path) == {"a": "1", "meanwhile": ""}
    (path / "meanwhile").unlink()
    (path / "deep").mkdir()
    monkeypatch.chdir(path / "deep")
    refused(path, "the working directory")
    monkeypatch.chdir(path)
    refused(path, "from another folder")


def test_no_folder_and_no_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "got a file")
    refused(Path("/proc"), "mount point")
    with pytest.raises(NotWritten) as caught:
        written(tmp_path / "no" / "folder", a="x")
    assert caught.value.errno == errno.ENOENT
    assert_clear(str(caught.value))


def test_a_mount_point_that_looks_like_a_folder(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same file system, it is only noticed when it is to be replaced."""
    written(path, a="1")

    def busy(*_: object) -> bool:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr("aligned_vq.files.renameat2.exchange", busy)
    with pytest.raises(ConfigError, match="got a mount point"):
        written(path, a="2")
    assert held(path) == {"a": "1"}


@pytest.mark.parametrize("there", [True, False])
def test_a_failure_leaves_what_was_there(there: bool, path: Path) -> None:
    if there:
        written(path, a="1")
    before = os.listdir(path.parent)
    with files_up_to(1000), pytest.raises(NotWritten, match="File too large") as caught:
        written(path, a="2", b="x" * 5000)
    assert_clear(str(caught.value))
    with (
        files_up_to(1000),
        pytest.raises(NotWritten, match="File too large"),
        new_folder(path, NAMES) as new,
    ):
        save_file({"a": np.zeros(5000)}, new / "a.safetensors")
    with pytest.raises(ValueError, match="a bug"), new_folder(path, NAMES) as new:
        raise ValueError("a bug")
    path.parent.chmod(0o555)
    try:
        with unprivileged(), pytest.raises(NotWritten, match="Permission denied"):
            written(path, a="2")
    finally:
        path.parent.chmod(0o755)
    assert os.listdir(path.parent) == before
    assert not there or held(path) == {"a": "1"}


def killed(path: Path, where: str) -> None:
    command = [sys.executable, "-c", KILLED_BETWEEN, str(path), where]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


def test_a_writer_killed_between_two_renames_is_recovered_from_again_and_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "folder"
    written(path, a="old")
    for _ in range(2):  # kills in a row: the second finds what the first left
        killed(path, "last")
        assert not path.exists()
    recover(path)
    assert held(path) == {"a": "old"}
    killed(path, "last")
    written(path, b="new")
    assert held(path) == {"b": "new"}
    killed(path, "after")
    recover(path)
    assert held(path) == {"a": "new"}
    written(path, b="last")
    assert held(path) == {"b": "last"}
    assert [name for name in os.listdir(tmp_path) if "unfinished" in name] == []


def test_there_is_nothing_to_recover(tmp_path: Path) -> None:
    recover(tmp_path / "folder")
    recover(tmp_path / "no" / "folder")
    assert os.listdir(tmp_path) == []


def content(name: str, folder: int) -> bytes:
    with open(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as file:
        return file.read()


def test_writers_at_the_same_time_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    writers = [
        subprocess.Popen([sys.executable, "-c", REPEATING, str(path), str(number)])
        for number in (1, 2, 3)
    ]
    while not path.exists():
        assert any(writer.poll() is None for writer in writers)
    while any(writer.poll() is None for writer in writers):
        handle = os.open(path, os.O_RDONLY)  # the same folder, whatever the path means meanwhile
        try:
            contents = {content(name, handle) for name in ("a.txt", "b.txt")}
        except FileNotFoundError:  # it was replaced, and is being removed
            continue
        finally:
            os.close(handle)
        assert len(contents) == 1
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert os.listdir(tmp_path) == ["folder"]
