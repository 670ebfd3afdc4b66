"""One target under atheris, in a process of its own, which libFuzzer ends: `python -m
tests.fuzz.guided TARGET WORK [libFuzzer's options]`."""

from __future__ import annotations

import hashlib
import random
import shlex
import signal
import sys
from pathlib import Path

import atheris

# Whatever has its coverage traced has to be imported for the first time here.
with atheris.instrument_imports(include=["aligned_vq", "protos", "edge_client", "cloud_server"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz until libFuzzer's options say so or an input breaks the target."""
    name, work, *options = sys.argv[1:]
    target = TARGETS[name]
    found, seeds = Path(work) / "corpus" / name, Path(work) / "seeds" / name
    for folder in (found, seeds):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (seeds / f"{number:03}").write_bytes(seed)
    inputs = [found, seeds, *sorted({path.parent for path in target.corpus()})]

    def vary(data: bytes, max_bytes: int, seed: int) -> bytes:
        varied: bytes = target.vary(random.Random(seed), data, atheris.Mutate)
        return varied[:max_bytes]

    def check(data: bytes) -> None:
        try:
            target.check(data)
        except BaseException:
            # libFuzzer does so, too, but not where Python ends more slowly than its alarm.
            signal.setitimer(signal.ITIMER_REAL, 0)
            digest = hashlib.sha1(data, usedforsecurity=False).hexdigest()
            path = Path(work) / "crashes" / f"{name}-crash-{digest}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            raise

    atheris.Setup(
        [_again(Path(work), name), *options, f"-max_len={target.max_bytes}", *map(str, inputs)],
        check,
        custom_mutator=vary,
    )
    atheris.Fuzz()


def _again(work: Path, name: str) -> str:
    """A command that starts this anew: what libFuzzer takes its own name for while it merges."""
    path = work / f"{name}.sh"
    words = (sys.executable, "-m", "tests.fuzz.guided", name, str(work))
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    path.chmod(0o755)
    return str(path.resolve())


if __name__ == "__main__":
    main()
