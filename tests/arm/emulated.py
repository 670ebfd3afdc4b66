"""A device that is not there: Debian's Python for aarch64 under qemu's user-mode emulation, with
the wheels that pip would install on a Raspberry Pi."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[2]
CPU = "cortex-a76"
"""A Raspberry Pi 5's, and near to a Jetson Orin's."""
LIBRARIES = "/usr/lib/aarch64-linux-gnu"
# qemu shows the host's file, in which onnxruntime looks for the fields of an ARM processor.
CPU_INFO = """processor\t: {}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""
PLATFORMS = tuple(
    f"{tag}_aarch64"
    for tag in ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "linux")
)
"""Whose wheels Raspberry Pi OS 12 and JetPack 6 take, newest first: glibc 2.35 and 2.36."""
# What starts programs finds them by `sys.executable`, which must be the emulator's command.
SITE = "import sys; sys.executable = {!r}"


def download(extras: str, python: str, to: Path) -> subprocess.CompletedProcess[str]:
    """Let pip download the wheels that it would install on aarch64.

    Args:
        extras: of this project, with commas.
        python: version, such as "3.11".
        to: folder.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    command += ["--only-binary=:all:", "--python-version", python, "--dest", str(to)]
    return _run([*command, f"{ROOT}[{extras}]"], check=False)


class EmulatedDevice:
    """Packages in a folder, and commands that run them.

    Args:
        folder: empty, or of an earlier one that is used again.
    """

    def __init__(self, folder: Path) -> None:
        self._root, self._packages = folder / "root", folder / "packages"
        self.python = folder / "python"
        self._make_system(folder)
        self._make_packages(folder)
        self.python.write_text(
            f"#!/bin/sh\nexec qemu-aarch64 -cpu {CPU} -L {self._root} "
            f"-E LD_LIBRARY_PATH={LIBRARIES} -E PYTHONHOME={self._root}/usr "
            f'-E PYTHONPATH={self._packages}:{ROOT} {self._interpreter} "$@"\n'
        )
        self.python.chmod(0o755)
        (self._packages / "sitecustomize.py").write_text(SITE.format(str(self.python)))

    @property
    def version(self) -> str:
        """Of its Python, such as "3.11"."""
        return self._interpreter.name.removeprefix("python")

    def run(self, module: str, *arguments: str) -> str:
        """What a module of ours prints there.

        Raises:
            CalledProcessError: it failed; its notes hold what it wrote to stderr.
        """
        return _run([str(self.python), "-m", module, *arguments]).stdout

    @property
    def _interpreter(self) -> Path:
        return next(self._root.glob("usr/bin/python3.[0-9][0-9]"))

    def _make_system(self, folder: Path) -> None:
        if self._root.exists():
            return
        # Apt's own folders stay as they are: this is not about packages of this machine.
        state = folder / "apt"
        for name in ("lists/partial", "cache/archives/partial"):
            (state / name).mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        options = {
            "APT::Architecture": "arm64",
            "APT::Architectures": "arm64",
            "APT::Sandbox::User": "",
            "Dir::State::Lists": state / "lists",
            "Dir::State::Status": state / "status",
            "Dir::Cache": state / "cache",
            "Debug::NoLocking": "1",
        }
        apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
        _run([*apt, "update"])
        wanted = ("python3", "libstdc++6")
        _run([*apt, "install", "--yes", "--no-install-recommends", "--download-only", *wanted])
        unpacked = folder / "unpacked"
        shutil.rmtree(unpacked, ignore_errors=True)
        for package in sorted((state / "cache" / "archives").glob("*.deb")):
            _run(["dpkg", "-x", str(package), str(unpacked)])
        (unpacked / "proc").mkdir()
        cores = "".join(CPU_INFO.format(core) for core in range(os.cpu_count() or 1))
        (unpacked / "proc" / "cpuinfo").write_text(cores)
        shutil.rmtree(state)
        unpacked.rename(self._root)

    def _make_packages(self, folder: Path) -> None:
        wheels = folder / "wheels"
        shutil.rmtree(wheels, ignore_errors=True)
        shutil.rmtree(self._packages, ignore_errors=True)
        done = download("gateway,watch", self.version, wheels)
        assert done.returncode == 0, done.stderr
        for wheel in wheels.glob("*.whl"):
            if not wheel.name.startswith("aligned_vq"):  # ours is used from where it is
                ZipFile(wheel).extractall(self._packages)


def _run(command: list[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, check=check, timeout=500, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr)
        raise
