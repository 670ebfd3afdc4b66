"""The public names of the packages are sorted, load, and say what they are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import aligned_vq
import cloud_server
import edge_client

PACKAGES = pytest.mark.parametrize(
    "package", [aligned_vq, cloud_server, edge_client], ids=lambda package: package.__name__
)
REFERENCE = Path(__file__).parents[2] / "docs" / "api"


@PACKAGES
def test_they_are_sorted_and_listed_once(package: ModuleType) -> None:
    assert package.__all__ == sorted(set(package.__all__))


@PACKAGES
def test_they_load_and_have_a_docstring(package: ModuleType) -> None:
    for name in package.__all__:
        value = getattr(package, name)
        assert value.__name__ == name
        assert value.__doc__, name


@PACKAGES
def test_an_unknown_name_is_an_attribute_error(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"'{package.__name__}' has no attribute 'nonsense'"):
        _ = package.nonsense


@PACKAGES
def test_the_api_reference_has_each_of_them_once(package: ModuleType) -> None:
    page = (REFERENCE / f"{package.__name__}.md").read_text()
    listed = re.findall(r"^\.\. auto(?:class|function|exception):: (\w+)$", page, re.MULTILINE)
    assert sorted(listed) == package.__all__


@pytest.mark.parametrize("package", ["aligned_vq", "edge_client"])
def test_importing_the_package_loads_no_tensor_library(package: str) -> None:
    code = f"import sys, {package}; print({{'torch', 'transformers', 'grpc'}} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert result.stdout.strip() == b"set()"
