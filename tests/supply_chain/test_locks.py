"""What the images install: pinned with hashes, complete, of the versions that are tested."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "docker" / "locks"
FILES = tuple(sorted(path.name for path in LOCKS.iterdir()))
EXTRAS = {"cloud": ("cloud",), "edge": ("edge", "gateway")}
INSTALLED = {"cloud": ("torch.txt", "cloud.txt"), "edge": ("edge.txt",)}
LINUX = {"sys_platform": "linux", "platform_python_implementation": "CPython"}


class Locked(NamedTuple):
    version: str
    marker: Marker | None
    hashes: list[str]


def locked(*names: str) -> dict[str, Locked]:
    """By project: what the files say."""
    found: dict[str, Locked] = {}
    for name in names:
        text = re.sub(r"^#.*\n", "", (LOCKS / name).read_text(), flags=re.MULTILINE)
        for entry in text.replace("\\\n", " ").splitlines():
            words, *hashes = entry.split("--hash=")
            own = Requirement(words)
            (only,) = own.specifier
            assert only.operator == "==", entry
            found[canonical(own.name)] = Locked(
                only.version, own.marker, [value.strip() for value in hashes]
            )
    return found


def constraints(file: str = "constraints.txt") -> dict[str, str]:
    lines = (ROOT / file).read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonical(name): version for name, version in pins}


def wanted(extras: tuple[str, ...]) -> set[str]:
    """Projects that these extras bring, on this machine and by what is installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    left = [Requirement(words) for words in project["dependencies"]]
    for extra in extras:
        left += [Requirement(words) for words in project["optional-dependencies"][extra]]
    found: set[str] = set()
    done: set[str] = set()
    while left:
        own = left.pop()
        if str(own) in done:
            continue
        done.add(str(own))
        if own.marker is not None and not own.marker.evaluate():
            continue
        if own.name == project["name"]:
            for extra in own.extras:
                more = project["optional-dependencies"][extra]
                left += [Requirement(words) for words in more]
            continue
        found.add(canonical(own.name))
        for words in requires(own.name) or ():
            further = Requirement(words)
            if further.marker is None or any(
                further.marker.evaluate({"extra": extra}) for extra in ("", *own.extras)
            ):
                left.append(further)
    return found


@pytest.mark.parametrize("file", FILES)
def test_everything_has_hashes(file: str) -> None:
    own = locked(file)
    assert own
    for name, entry in own.items():
        assert entry.hashes, name
        for value in entry.hashes:
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", value), name


@pytest.mark.parametrize("file", FILES)
def test_versions_are_those_of_the_constraints(file: str) -> None:
    pins = constraints()
    for name, entry in locked(file).items():
        elsewhere = entry.marker is not None and not entry.marker.evaluate(LINUX)
        if name in pins:
            assert entry.version == pins[name], f"{name}: run `make locks`"
        else:  # only PyPI's torch brings it, or another system
            assert file == "torch.txt" or elsewhere or name == "setuptools", name


@pytest.mark.parametrize("side", EXTRAS)
def test_nothing_that_is_wanted_is_missing(side: str) -> None:
    missing = wanted(EXTRAS[side]) - locked(*INSTALLED[side]).keys()
    assert not missing, f"{sorted(missing)}: run `make locks`"


def test_torch_is_apart_so_that_a_base_image_may_bring_it() -> None:
    assert "torch" in locked("torch.txt")
    assert not locked("torch.txt").keys() & locked("cloud.txt").keys()
    brought = wanted(EXTRAS["cloud"]) - {"torch"}
    assert brought <= locked("cloud.txt").keys()


def test_the_images_install_from_locks_only() -> None:
    for name in ("cloud", "edge"):
        text = (ROOT / "docker" / f"{name}.Dockerfile").read_text()
        text = re.sub(r"[ \\]+\n +", " ", text)  # a command in one line
        unverified = []
        for command in re.findall(r"\bpip (?:--python \S+ )?(?:install|wheel) [^;&]*", text):
            if "--no-index" not in command and "--require-hashes" not in command:
                unverified.append(command)
        used = set(re.findall(r"docker/locks/([\w-]+\.txt)", text))
        assert used == {*INSTALLED[name], "build.txt"}
        assert "PIP_NO_DEPS=1" in text
        if name == "cloud":
            (only,) = unverified
            assert f'[ "$TORCH_LOCK" = none ]; then {only}' in text
        else:
            assert not unverified
        bases = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE))
        assert bases <= {"${BASE_IMAGE}", "scratch"}


def test_the_bills_of_materials_list_what_is_locked(tmp_path: Path) -> None:
    binaries = Path(sys.executable).parent
    options = (f"BIN={binaries}", f"SBOM={tmp_path}", "VALIDATE=--no-validate")  # CI validates
    command = ["make", "sbom", "-o", "setup", *options]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=100)
    for side, files in INSTALLED.items():
        found = json.loads((tmp_path / f"sbom-{side}.json").read_text())
        assert found["bomFormat"] == "CycloneDX"
        assert found["metadata"]["component"]["name"] == "aligned-vq"
        listed = {canonical(own["name"]): own["version"] for own in found["components"]}
        assert listed == {name: entry.version for name, entry in locked(*files).items()}


def test_constraints_that_are_given_together_agree() -> None:
    ours, theirs = constraints(), constraints("constraints-lmms.txt")
    assert {name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]} == set()
