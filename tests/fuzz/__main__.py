"""Fuzz the targets one after the other, or check one input: `python -m tests.fuzz --help`.

Needs atheris, from the extra `fuzz`. An input that breaks a target is written to
`build/fuzz/crashes/TARGET-...`, and the command that repeats it is printed. Copy it to
`tests/fuzz/cases/TARGET/` under a name that says what it is, and the suite runs it from then on.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from tests.fuzz.target import HERE, Target
from tests.fuzz.targets import TARGETS

INPUT_SECONDS = 30
MEMORY_MIB = 2_048
PROGRESS_SECONDS = 10.0
GUIDED = ("-m", "tests.fuzz.guided")
_COUNTS = re.compile(
    r"#(\d+)\s+\w+\s+cov: (\d+) ft: \d+ corp: (\d+)/\S+.* exec/s: (\d+) rss: (\d+)Mb"
)
_MISSING = (
    "expected atheris, found none: pip install '.[fuzz]', which brings it for CPython on Linux "
    "x86_64, the one platform it has wheels for"
)


def main() -> int:
    """Print the progress of every target; exits with 1 where one was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=600, help="for each target")
    parser.add_argument("--work", type=Path, default=Path("build/fuzz"), help="folder to work in")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="check this input alone")
    parser.add_argument(
        "--minimise", action="store_true", help="instead, write tests/fuzz/corpus anew from WORK"
    )
    options = parser.parse_args()
    if unknown := sorted(set(options.targets) - set(TARGETS)):
        parser.error(f"expected targets of {', '.join(TARGETS)}, got {', '.join(unknown)}")
    chosen = [TARGETS[name] for name in options.targets or TARGETS]
    if options.repeat:
        for target in chosen:
            target.check(options.repeat.read_bytes())
        return 0
    if importlib.util.find_spec("atheris") is None:
        print(_MISSING, file=sys.stderr)
        return 2
    if options.minimise:
        return max(minimised(target, options.work) for target in chosen)
    results = {target.name: fuzzed(target, options.seconds, options.work) for target in chosen}
    for name, clean in results.items():
        print(f"{name:10} {'clean' if clean else 'BROKEN'}")
    return 0 if all(results.values()) else 1


def fuzzed(target: Target, seconds: int, work: Path) -> bool:
    """Run a target for so many seconds; False where an input breaks it."""
    crashes = work / "crashes"
    crashes.mkdir(parents=True, exist_ok=True)
    before = set(crashes.glob(f"{target.name}-*"))
    print(f"{target.name}: {seconds} s, inputs of at most {target.max_bytes} B", flush=True)
    started = time.monotonic()
    ended = _guided(
        target,
        work,
        f"-max_total_time={seconds}",
        f"-timeout={INPUT_SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-artifact_prefix={crashes}/{target.name}-",
        "-print_final_stats=1",
    )
    for path in sorted(set(crashes.glob(f"{target.name}-*")) - before):
        print(f"repeat it: {sys.executable} -m tests.fuzz {target.name} --repeat {path}")
    print(f"{target.name}: ended with {ended} after {time.monotonic() - started:.0f} s", flush=True)
    return ended == 0


def minimised(target: Target, work: Path) -> int:
    """Replace a target's corpus by the fewest inputs that reach the same code; libFuzzer's exit."""
    kept, fresh = HERE / "corpus" / target.name, work / "minimised" / target.name
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    ended = _guided(target, work, "-merge=1", f"-artifact_prefix={work}/merge-", str(fresh))
    if ended == 0:
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(fresh, kept)
    return ended


def _guided(target: Target, work: Path, *options: str) -> int:
    command = [sys.executable, *GUIDED, target.name, str(work), *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        _show(process.stdout, target.name)
    return process.returncode


def _show(lines: Iterable[str], name: str) -> None:
    """Print libFuzzer's counts at times, its lists of words not at all, and all else as it is."""
    shown = -PROGRESS_SECONDS
    for line in lines:
        if counts := _COUNTS.match(line):
            if time.monotonic() - shown >= PROGRESS_SECONDS:
                shown = time.monotonic()
                inputs, coverage, kept, rate, memory = counts.groups()
                print(
                    f"{name}: {inputs} inputs, {rate}/s, coverage {coverage}, corpus {kept}, "
                    f"{memory} MiB",
                    flush=True,
                )
        elif not line.startswith(("INFO:", '"', "#")):
            print(line.rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
