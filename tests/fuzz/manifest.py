"""A bundle's and a checkpoint's files: manifest, processor settings, tower, entropy tables.

Invariant: each is read or refused with ConfigError. What is read has values of the declared types,
is the same again after a round trip through its own JSON, and keeps its digest.
"""

from __future__ import annotations

import functools
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aligned_vq.bitstream import EntropyTables
from aligned_vq.codec.bundle_files import MANIFEST, read_manifest
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.errors import ConfigError
from aligned_vq.files.typed_fields import check_declared
from aligned_vq.images.processor import ProcessorSettings
from aligned_vq.llava.tower_config import TowerConfig
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from aligned_vq.types import QuantizerConfig
from tests.bitstream.samples import context_tables, skewed_tables
from tests.fuzz.target import Mutate, Target
from tests.fuzz.varying.extremes import vary_json

TINY = QuantizerConfig(dim=8, codebook_dim=4, codebook_sizes=(3, 2))


def check(data: bytes) -> None:
    """See the module's invariant."""
    kind, rest = (data[0], data[1:]) if data else (0, b"")
    read, hold = _KINDS[kind % len(_KINDS)]
    try:
        found = read(rest)
    except ConfigError:
        return
    try:
        hold(found)
    except ConfigError as error:
        raise AssertionError("what was read is refused on the way back") from error


def _read_manifest(data: bytes) -> SplitManifest:
    path = _folder() / MANIFEST
    path.write_bytes(data)
    return read_manifest(path.parent)


def _hold_manifest(found: SplitManifest) -> None:
    check_declared(found)
    again = SplitManifest.from_json(found.to_json())
    assert again == found
    assert again.digest() == found.digest()
    assert found.features.num_tokens > 0


def _read_processor(data: bytes) -> ProcessorSettings:
    return ProcessorSettings.from_dict(_parsed(data))


def _hold_processor(found: ProcessorSettings) -> None:
    check_declared(found)
    again = ProcessorSettings.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    assert again.digest() == found.digest()
    assert min(found.output_size) > 0


def _read_tower(data: bytes) -> TowerConfig:
    try:
        return TowerConfig.from_llava(_parsed(data))
    except (KeyError, TypeError) as error:  # as LlavaCheckpoint, the one that calls it, does
        raise ConfigError("expected a vision tower's settings") from error


def _hold_tower(found: TowerConfig) -> None:
    check_declared(found)
    assert TowerConfig.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert 0 <= found.last_block <= found.vision.num_hidden_layers


def _read_tables(data: bytes) -> EntropyTables:
    path = _folder() / "entropy.safetensors"
    path.write_bytes(data)
    return EntropyTables.load(path, TINY)


def _hold_tables(found: EntropyTables) -> None:
    path = _folder() / "again.safetensors"
    found.save(path)
    assert EntropyTables.load(path, TINY).digest() == found.digest()


_KINDS: tuple[tuple[Callable[[bytes], Any], Callable[[Any], None]], ...] = (
    (_read_manifest, _hold_manifest),
    (_read_processor, _hold_processor),
    (_read_tower, _hold_tower),
    (_read_tables, _hold_tables),
)


@functools.cache
def _keeper() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fuzz-")


def _folder() -> Path:
    return Path(_keeper().name)


def _parsed(data: bytes) -> Any:
    """A JSON object; ConfigError for anything else, as for a checkpoint's files."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError("expected JSON") from error
    if not isinstance(found, dict):
        raise ConfigError("expected an object")
    return found


def seeds() -> Iterator[bytes]:
    """The shipped bundle's and checkpoint's files, and small tables."""
    manifest = json.loads((BUNDLE / MANIFEST).read_text())
    yield b"\0" + json.dumps(manifest).encode()
    for link in ("statistics", "dropped"):
        yield b"\0" + json.dumps({**manifest, "link": link, "split": "ln2@0"}).encode()
    yield b"\1" + json.dumps(asdict(ProcessorSettings())).encode()
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (CHECKPOINT / name).is_file():
            yield b"\1" + (CHECKPOINT / name).read_bytes()
    config = json.loads((CHECKPOINT / "config.json").read_text())
    wanted = {key: value for key, value in config.items() if "vision" in key}
    yield b"\2" + json.dumps(wanted).encode()
    path = _folder() / "seed.safetensors"
    for tables in (skewed_tables(TINY), context_tables(TINY)):
        tables.save(path)
        yield b"\3" + path.read_bytes()


def vary(rng: random.Random, data: bytes, mutate: Mutate) -> bytes:
    """A value of the JSON changed, also of the JSON in a file of tensors; or bytes."""
    if rng.random() < 0.8:
        try:
            return _vary_json(rng, data)[: TARGET.max_bytes]
        except (ValueError, RecursionError):
            pass
    return mutate(data, TARGET.max_bytes)


def _vary_json(rng: random.Random, data: bytes) -> bytes:
    if not data or data[0] % len(_KINDS) != 3:
        return data[:1] + vary_json(rng, data[1:])
    end = 9 + int.from_bytes(data[1:9], "little")
    head = vary_json(rng, data[9:end])
    return data[:1] + len(head).to_bytes(8, "little") + head + data[end:]


TARGET = Target("manifest", check, seeds, vary, max_bytes=6_000)
