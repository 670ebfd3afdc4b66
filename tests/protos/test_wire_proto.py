"""The .proto and the code generated from it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parents[2]
PROTO = "protos/alignedvq/v1/inference.proto"


def protoc(*arguments: str) -> None:
    pytest.importorskip("grpc_tools")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I.", *arguments, PROTO],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        check=True,
        capture_output=True,
        timeout=60,
    )


def test_generated_code_is_up_to_date(tmp_path: Path) -> None:
    outs = ("python", "grpc_python", "mypy", "mypy_grpc")
    protoc(*(f"--{out}_out={tmp_path}" for out in outs))
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert len(made) == 4
    for path in made:
        assert (tmp_path / path).read_bytes() == (ROOT / path).read_bytes(), f"run protoc: {path}"


def named(
    path: tuple[int, ...], message: descriptor_pb2.DescriptorProto
) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, message.name
    assert not message.nested_type
    for i, field in enumerate(message.field):
        yield (*path, 2, i), f"{message.name}.{field.name}"
    for i, oneof in enumerate(message.oneof_decl):
        if not oneof.name.startswith("_"):
            yield (*path, 8, i), f"{message.name}.{oneof.name}"


def test_everything_in_the_proto_has_a_remark(tmp_path: Path) -> None:
    out = tmp_path / "set.bin"
    protoc("--include_source_info", f"--descriptor_set_out={out}")
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    remarked = {
        tuple(location.path)
        for location in file.source_code_info.location
        if location.leading_comments.strip() or location.trailing_comments.strip()
    }
    expected = [
        pair for i, message in enumerate(file.message_type) for pair in named((4, i), message)
    ]
    for i, enum in enumerate(file.enum_type):
        expected.append(((5, i), enum.name))
        expected += [((5, i, 2, j), value.name) for j, value in enumerate(enum.value)]
    for i, service in enumerate(file.service):
        expected.append(((6, i), service.name))
        expected += [((6, i, 2, j), method.name) for j, method in enumerate(service.method)]
    assert len(expected) > 50
    assert [name for path, name in expected if path not in remarked] == []


def test_enum_values_are_prefixed_and_start_unspecified() -> None:
    from protos.alignedvq.v1 import inference_pb2 as pb

    for name, prefix in (("Coding", "CODING_"), ("FinishReason", "FINISH_REASON_")):
        values = pb.DESCRIPTOR.enum_types_by_name[name].values
        assert all(value.name.startswith(prefix) for value in values)
        assert values[0].name == f"{prefix}UNSPECIFIED"
        assert values[0].number == 0
