"""The offline queue: order, size limit, permissions, damage, and survival of SIGKILL."""

from __future__ import annotations

import hashlib
import resource
import signal
import socket
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from aligned_vq.errors import ConfigError
from benchmarks.harness.processes import CloudProcess
from edge_client.watch.offline_queue import FILE_NAME, OfflineQueue, QueuedQuestion
from tests.e2e.raw import assert_clear, payload_of
from tests.watch.process import QUESTION, WatchProcess, save

QUICK = ("--connect_seconds=0.3", "--failures=1", "--pause_seconds=0.2", "--attempts=1")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return int(closed.getsockname()[1])


def make_questions(bundle: Path, count: int) -> list[QueuedQuestion]:
    payload = payload_of(bundle)
    return [
        QueuedQuestion(1e9 + number, number, f"{number}.png", QUESTION, payload)
        for number in range(count)
    ]


def put_all(stored: OfflineQueue, questions: list[QueuedQuestion]) -> None:
    for question in questions:
        stored.put(question)


def count(queue: Path) -> int:
    with OfflineQueue(queue, 2**20) as stored:
        return len(stored)


def test_first_in_first_out_and_bounded(bundle_directory: Path, tmp_path: Path) -> None:
    questions = make_questions(bundle_directory, 10)
    each = len(questions[0].payload.body) + 37 + len(QUESTION)
    with OfflineQueue(tmp_path / "queue", 4 * each) as stored:
        put_all(stored, questions)
        assert len(stored) == 4
        assert stored.dropped == 6
    with OfflineQueue(tmp_path / "queue", 4 * each) as stored:
        assert stored.dropped == 6
        found = []
        while (oldest := stored.oldest()) is not None:
            found.append((oldest.number, oldest.name, oldest.time, oldest.question, oldest.payload))
            stored.remove(oldest)
        assert found == [
            (item.number, item.name, item.time, item.question, item.payload)
            for item in questions[6:]
        ]


def test_a_question_larger_than_the_queue_is_dropped(
    bundle_directory: Path, tmp_path: Path
) -> None:
    with OfflineQueue(tmp_path / "queue", 10) as stored:
        stored.put(make_questions(bundle_directory, 1)[0])
        assert len(stored) == 0
        assert stored.dropped == 1


def test_damaged_payloads_are_dropped(bundle_directory: Path, tmp_path: Path) -> None:
    questions = make_questions(bundle_directory, 3)
    with OfflineQueue(tmp_path / "queue", 2**20) as stored:
        put_all(stored, questions)
        with stored._database:
            stored._database.execute("UPDATE kept SET payload = x'00ff' WHERE number < 2")
        oldest = stored.oldest()
        assert oldest is not None
        assert oldest.number == 2
        assert (len(stored), stored.dropped) == (1, 2)


@pytest.mark.parametrize(
    "damage",
    [
        *("payload = NULL", "payload = 7", "payload = 'text'", "payload = x''", "payload = 1.5"),
        *("payload = SUBSTR(payload, 1, 40)", "payload = CAST(x'ff' AS TEXT)"),
        *("time = CAST(x'ff' AS TEXT)", "number = CAST(x'ff' AS TEXT)"),
        *("question = NULL", "question = CAST(x'ff00fe' AS TEXT)", "question = x'fffe'"),
        *("name = NULL", "name = CAST(x'c328' AS TEXT)", "number = NULL", "number = 'three'"),
        *("number = x'00'", "number = 1.5", "time = NULL", "time = 'now'", "time = 9e999"),
        *("time = -9e999", "time = x'00'", "time = 1e300", "time = -1"),
    ],
)
def test_a_damaged_row_is_dropped_and_counted(
    bundle_directory: Path, tmp_path: Path, damage: str
) -> None:
    with OfflineQueue(tmp_path / "queue", 2**20) as stored:
        put_all(stored, make_questions(bundle_directory, 3))
    with closing(sqlite3.connect(tmp_path / "queue" / FILE_NAME)) as database, database:
        # SQLite's constraints do not apply to bits that change on disk.
        database.execute("PRAGMA writable_schema = ON")
        database.execute("UPDATE sqlite_schema SET sql = REPLACE(sql, 'NOT NULL', '')")
    with closing(sqlite3.connect(tmp_path / "queue" / FILE_NAME)) as database, database:
        database.execute(f"UPDATE kept SET {damage} WHERE number < 2")
    with OfflineQueue(tmp_path / "queue", 2**20) as stored:
        oldest = stored.oldest()
        assert oldest is not None
        assert oldest.number == 2
        assert (len(stored), stored.dropped) == (1, 2)
        stored.put(oldest)
        stored.remove(oldest)
        assert len(stored) == 1


@pytest.mark.parametrize("count", ["NULL", "'many'", "x'ff'", "9e999"])
def test_a_damaged_count_of_dropped_questions_restarts_at_zero(
    bundle_directory: Path, tmp_path: Path, count: str
) -> None:
    with OfflineQueue(tmp_path / "queue", 10) as stored:
        put_all(stored, make_questions(bundle_directory, 2))
        assert stored.dropped == 2
        with stored._database:
            stored._database.execute("DROP TABLE dropped")
            stored._database.execute("CREATE TABLE dropped (count)")
            stored._database.execute(f"INSERT INTO dropped VALUES ({count})")
        assert stored.dropped == 0
        put_all(stored, make_questions(bundle_directory, 1))
        assert stored.dropped == 1


def test_a_folder_that_others_can_read_is_refused(bundle_directory: Path, tmp_path: Path) -> None:
    queue = tmp_path / "deep" / "queue"
    with OfflineQueue(queue, 2**20):
        assert queue.stat().st_mode & 0o777 == 0o700
    queue.chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 700") as caught:
        OfflineQueue(queue, 2**20)
    assert_clear(str(caught.value))


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with OfflineQueue(tmp_path / "queue", 2**20):
        with pytest.raises(ConfigError, match="end the other process") as caught:
            OfflineQueue(tmp_path / "queue", 2**20)
        assert_clear(str(caught.value))
    assert count(tmp_path / "queue") == 0


def test_paths_that_are_not_a_queue_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    broken = tmp_path / "broken"
    broken.mkdir(mode=0o700)
    (broken / FILE_NAME).write_bytes(b"no database at all" * 100)
    for path, words in ((tmp_path / "file", "another folder"), (broken, "move the file away")):
        with pytest.raises(ConfigError, match=words) as caught:
            OfflineQueue(path, 2**20)
        assert_clear(str(caught.value))


def test_a_full_disk_is_reported_and_no_stored_question_is_lost(
    bundle_directory: Path, tmp_path: Path
) -> None:
    questions = make_questions(bundle_directory, 200)
    with OfflineQueue(tmp_path / "queue", 2**20) as stored:
        stored._database.execute("PRAGMA max_page_count = 8")
        with pytest.raises(ConfigError, match="free some space") as caught:
            put_all(stored, questions)
        assert_clear(str(caught.value))
        waiting = len(stored)
        assert 0 < waiting < len(questions)
        stored._database.execute("PRAGMA max_page_count = 1000")
        stored.put(questions[waiting])
        oldest = stored.oldest()
        assert oldest is not None
        assert oldest.number == 0
        assert (len(stored), stored.dropped) == (waiting + 1, 0)


def test_a_full_disk_ends_the_watch(bundle_directory: Path, tmp_path: Path) -> None:
    folder, queue = tmp_path / "pictures", tmp_path / "queue"
    folder.mkdir()
    options = (f"--queue={queue}", *QUICK)
    with WatchProcess(folder, f"127.0.0.1:{closed_port()}", bundle_directory, *options) as watch:
        save(folder / "a.png", 1)
        watch.until_lines(1)
        resource.prlimit(watch.process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
        save(folder / "b.png", 2)
        assert watch.process.wait(60) == 1
        watch.until(lambda: any("expected a queue" in words for words in watch.messages))
    assert not any("Traceback" in words for words in watch.messages)
    assert count(queue) == 1


def reason_at_a_wrong_cloud(cloud: CloudProcess, bundle: Path, folder: Path) -> str:
    """The reason that `watch` reports while questions wait. The first, of an unknown bundle, can
    never be answered: it is reported as an error and does not delay the others."""
    images, queue = folder / "pictures", folder / "queue"
    images.mkdir()
    with OfflineQueue(queue, 2**20) as stored:
        first, *others = make_questions(bundle, 3)
        strange = replace(first.payload, manifest_digest=bytes(16))
        put_all(stored, [replace(first, payload=strange), *others])
    options = (f"--queue={queue}", "--attempts=1")
    with WatchProcess(images, cloud.target, bundle, *options) as watch:
        watch.until(watch.errors)
        save(images / "a.png", 7)
        watch.until_lines(2)
        assert watch.end() == 0
    assert [line["file"] for line in watch.errors()] == ["0.png"]
    assert (watch.lines[1]["kept"], watch.lines[1]["dropped"]) == (3, 0)
    assert count(queue) == 3
    return str(watch.lines[1]["reason"])


def test_no_question_is_lost_to_a_cloud_with_another_bundle(
    identity_cloud: CloudProcess, bundle_directory: Path, tmp_path: Path
) -> None:
    assert "bundle" in reason_at_a_wrong_cloud(identity_cloud, bundle_directory, tmp_path)


def test_no_question_is_lost_to_a_cloud_that_requires_a_token(
    llava_directory: Path, bundle_directory: Path, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text(f"somebody: {hashlib.sha256(b'else').hexdigest()}\n")
    with CloudProcess(bundle_directory, llava_directory, f"--tokens={tokens}") as cloud:
        assert "token" in reason_at_a_wrong_cloud(cloud, bundle_directory, tmp_path)


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_a_queue_survives_its_process_and_is_sent_in_order(
    by: signal.Signals, cloud: CloudProcess, bundle_directory: Path, tmp_path: Path
) -> None:
    folder, queue = tmp_path / "pictures", tmp_path / "queue"
    folder.mkdir()
    options = (f"--queue={queue}", *QUICK)
    names = [f"{number}.png" for number in range(4)]
    with WatchProcess(folder, f"127.0.0.1:{closed_port()}", bundle_directory, *options) as watch:
        for number, name in enumerate(names):
            save(folder / name, number)
            watch.until_lines(number + 1)
        assert watch.end(by) == (0 if by is signal.SIGTERM else -signal.SIGKILL)
    assert [line["kept"] for line in watch.lines] == [1, 2, 3, 4]
    assert count(queue) == len(names)
    with WatchProcess(folder, cloud.target, bundle_directory, *options) as watch:
        watch.until_lines(len(names))
        save(folder / "live.png", 9)
        watch.until_lines(len(names) + 1)
        assert watch.end() == 0
    assert [line["file"] for line in watch.lines] == [*names, "live.png"]
    assert [line["late"] for line in watch.lines] == [*[True] * len(names), False]
    assert all(line["answer"] for line in watch.lines)
    assert count(queue) == 0


def test_questions_wait_while_the_cloud_restarts(
    llava_directory: Path, bundle_directory: Path, tmp_path: Path
) -> None:
    folder, queue, port = tmp_path / "pictures", tmp_path / "queue", closed_port()
    folder.mkdir()
    options = (f"--queue={queue}", *QUICK)
    serve = (bundle_directory, llava_directory, f"--port={port}")
    with WatchProcess(folder, f"127.0.0.1:{port}", bundle_directory, *options) as watch:
        with CloudProcess(*serve) as cloud:
            save(folder / "a.png", 1)
            watch.until_lines(1)
            cloud.process.kill()
            cloud.process.wait()
        for number, name in enumerate(("b.png", "c.png"), 2):
            save(folder / name, number)
            watch.until_lines(number)
        with CloudProcess(*serve):
            watch.until(lambda: len(watch.answers()) == 3)
            save(folder / "d.png", 4)
            watch.until(lambda: len(watch.answers()) == 4)
            assert watch.end() == 0
    assert [line["file"] for line in watch.answers()] == ["a.png", "b.png", "c.png", "d.png"]
    assert not watch.errors()
