"""Files written whole: the old or the new one, whatever fails, and for whom it is meant."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from aligned_vq.files.atomic_file import new_file, write_file
from aligned_vq.files.staging import NotWritten
from tests.disk import files_up_to, mode, umask, unprivileged
from tests.e2e.raw import assert_clear

WAITING = """
import sys
from aligned_vq.files.atomic_file import new_file
with new_file(sys.argv[1]) as part:
    part.write_text("half")
    print("writing", flush=True)
    sys.stdin.read()
"""
REPEATING = """
import sys
from aligned_vq.files.atomic_file import write_file
for _ in range(25):
    write_file(sys.argv[1], sys.argv[2] * 50_000)
"""


def started(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def waiting_writer(path: Path) -> subprocess.Popen[str]:
    process = started(WAITING, str(path))
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def end(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=60)
    return process.returncode


@pytest.mark.parametrize(("mask", "public"), [(0o022, 0o644), (0o002, 0o644), (0o077, 0o600)])
def test_modes_are_said_and_not_left_to_the_writer(mask: int, public: int, tmp_path: Path) -> None:
    with umask(mask):
        write_file(tmp_path / "public", "a")
        write_file(tmp_path / "secret", b"b", secret=True)
        with new_file(tmp_path / "tensors") as part:
            save_file({"a": np.zeros(3)}, part)  # makes a file of its own, of mode 0600
    assert [mode(tmp_path / name) for name in ("public", "tensors")] == [public, public]
    assert mode(tmp_path / "secret") == 0o600
    assert sorted(os.listdir(tmp_path)) == ["public", "secret", "tensors"]


def test_a_new_content_replaces_the_old_and_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, "old", secret=True)
    write_file(path, "né")
    assert (path.read_bytes(), mode(path)) == ("né".encode(), 0o644)


@pytest.mark.parametrize("there", ["file", "link", "dangling link", "directory"])
def test_what_is_there_is_not_overwritten_where_it_must_not_be(there: str, tmp_path: Path) -> None:
    path = tmp_path / "path"
    other = tmp_path / "other"
    if there == "file":
        path.write_text("old")
    elif there == "directory":
        path.mkdir()
    else:
        path.symlink_to(other)
        if there == "link":
            other.write_text("old")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(NotWritten, match="File exists") as caught:
        write_file(path, "new", replace=False)
    assert_clear(str(caught.value))
    assert caught.value.errno == errno.EEXIST
    assert sorted(os.listdir(tmp_path)) == before
    assert path.is_dir() or not path.exists() or path.read_text() == "old"


def test_what_comes_meanwhile_is_not_overwritten_either(tmp_path: Path) -> None:
    path = tmp_path / "path"

    def write() -> None:
        with new_file(path, replace=False) as part:
            part.write_text("new")
            path.write_text("meanwhile")

    with pytest.raises(NotWritten):
        write()
    assert path.read_text() == "meanwhile"


def test_without_renameat2_a_file_is_new_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aligned_vq.files.atomic_file.rename_to_new", lambda source, target: False)
    write_file(tmp_path / "path", "first", secret=True, replace=False)
    with pytest.raises(NotWritten, match="File exists"):
        write_file(tmp_path / "path", "second", replace=False)
    assert ((tmp_path / "path").read_text(), mode(tmp_path / "path")) == ("first", 0o600)
    assert os.listdir(tmp_path) == ["path"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(Path("there") / "file")
    for content in ("first", "second"):
        write_file(link, content)
        assert link.is_symlink()
        assert (tmp_path / "there" / "file").read_text() == content
    assert os.listdir(tmp_path / "there") == ["file"]


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_file(pipe, "through")
    reader.join(20)
    assert read == ["through"]
    assert pipe.is_fifo()
    script = "import aligned_vq.files.atomic_file as w; w.write_file('/dev/stdout', 'said')"
    assert subprocess.check_output([sys.executable, "-c", script]) == b"said"


def fail_by_limit(path: Path) -> None:
    with files_up_to(1000):
        write_file(path, "x" * 5000)


def fail_by_limit_of_tensors(path: Path) -> None:
    with files_up_to(1000), new_file(path) as part:
        save_file({"a": np.zeros(5000)}, part)


def fail_by_rights(path: Path) -> None:
    path.parent.chmod(0o555)
    try:
        with unprivileged():
            write_file(path, "new")
    finally:
        path.parent.chmod(0o755)


@pytest.mark.parametrize(
    ("fail", "number"),
    [
        (fail_by_limit, errno.EFBIG),
        (fail_by_limit_of_tensors, errno.EFBIG),
        (fail_by_rights, errno.EACCES),
    ],
)
@pytest.mark.parametrize("there", [True, False])
def test_a_failure_leaves_what_was_there_and_says_so(
    fail: Callable[[Path], None], number: int, there: bool, tmp_path: Path
) -> None:
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    if there:
        path.write_text("old")
    with pytest.raises(NotWritten) as caught:
        fail(path)
    assert_clear(str(caught.value))
    assert (caught.value.errno, caught.value.filename) == (number, str(path))
    assert os.strerror(number) in str(caught.value)
    assert os.listdir(path.parent) == (["file"] if there else [])
    assert not there or path.read_text() == "old"


def test_a_disk_that_is_full_only_when_it_must_keep_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network file systems say so at fsync."""

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_file(tmp_path / "file", "old")
    monkeypatch.setattr(os, "fsync", full)
    for replace in (True, False):
        with pytest.raises(NotWritten, match="No space left on device; nothing has been changed"):
            write_file(tmp_path / ("file" if replace else "new"), "new", replace=replace)
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_no_folder_and_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    for path, number in ((tmp_path / "no" / "file", errno.ENOENT), (tmp_path, errno.EISDIR)):
        with pytest.raises(NotWritten) as caught:
            write_file(path, "x")
        assert caught.value.errno == number
        assert_clear(str(caught.value))


def test_a_bug_in_the_writer_is_its_own_and_leaves_nothing(tmp_path: Path) -> None:

    def write(error: BaseException) -> None:
        with new_file(tmp_path / "file") as part:
            part.write_text("half")
            raise error

    for error in (ValueError("a bug"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            write(error)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_is_at_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    killed, living = waiting_writer(path), waiting_writer(path)
    assert len(os.listdir(tmp_path)) == 2
    killed.kill()
    end(killed)
    assert len(os.listdir(tmp_path)) == 2
    write_file(tmp_path / "another", "x")
    assert len(os.listdir(tmp_path)) == 3  # of another file: not looked for
    write_file(path, "first")
    assert len(os.listdir(tmp_path)) == 3
    assert path.read_text() == "first"
    assert end(living) == 0
    assert path.read_text() == "half"
    assert sorted(os.listdir(tmp_path)) == ["another", "file"]


def test_a_folder_without_locks_is_written_to_and_nothing_is_taken_for_a_leftover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(handle: int, operation: int) -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    killed = waiting_writer(tmp_path / "file")
    killed.kill()
    end(killed)
    monkeypatch.setattr("fcntl.flock", unknown)
    write_file(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    assert len(os.listdir(tmp_path)) == 2


def test_writers_at_the_same_time_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, "0" * 50_000)
    writers = [started(REPEATING, str(path), str(number)) for number in (1, 2, 3)]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        content = path.read_text()
        assert len(content) == 50_000
        assert len(set(content)) == 1
        seen.add(content[0])
    assert [end(writer) for writer in writers] == [0, 0, 0]
    assert len(seen) > 1
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "a b\n[*]?.json", ".hidden"])
def test_names_of_every_kind(name: str, tmp_path: Path) -> None:
    for content in ("first", "second"):
        with suppress(ValueError), new_file(tmp_path / name) as part:
            part.write_text("half")
            raise ValueError
        write_file(tmp_path / name, content)
        assert (tmp_path / name).read_text() == content
    assert os.listdir(tmp_path) == [name]
