"""As much of Kustomize as the manifests use, so that they are tested as they are applied.

Anything else in a kustomization is an error, never ignored. `kubectl kustomize` gives the same, but
for the order of what a patch merges and the digest in the name of a generated ConfigMap.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

MANIFESTS = Path(__file__).parents[2] / "docker" / "k8s"
OVERLAYS = tuple(sorted(path.name for path in (MANIFESTS / "overlays").iterdir()))
FILE = "kustomization.yaml"

Resource = dict[str, Any]

_FIELDS = {
    *("apiVersion", "kind", "namespace", "resources", "components", "patches"),
    "configMapGenerator",
}


def overlay(name: str) -> list[Resource]:
    """What `kubectl apply -k` would send."""
    return build(MANIFESTS / "overlays" / name)


def build(directory: Path, below: list[Resource] | None = None) -> list[Resource]:
    """The resources of a directory; of a component with those it is laid over."""
    own = yaml.safe_load((directory / FILE).read_text())
    if unknown := own.keys() - _FIELDS:
        raise ValueError(f"{directory / FILE}: {sorted(unknown)} are not known here")
    found = [*(below or ())]
    for name in own.get("resources", ()):
        path = directory / name
        found += build(path) if path.is_dir() else documents(path)
    for generator in own.get("configMapGenerator", ()):
        found.append(_config_map(directory, **generator))
    for name in own.get("components", ()):
        found = build(directory / name, found)
    for patch in own.get("patches", ()):
        found = _patched(found, directory, **patch)
    if namespace := own.get("namespace"):
        for resource in found:
            if resource["kind"] != "Namespace":
                resource["metadata"]["namespace"] = namespace
    return found


def documents(path: Path) -> list[Resource]:
    """The resources in a file."""
    return list(yaml.safe_load_all(path.read_text()))


def merged(base: Any, patch: Any) -> Any:
    """A strategic merge: mappings by key, lists of named things by name, null removes."""
    if isinstance(base, dict) and isinstance(patch, dict):
        found = {key: value for key, value in base.items() if patch.get(key, "") is not None}
        for key, value in patch.items():
            if value is not None:
                found[key] = merged(base.get(key), value)
        return found
    if _named(base) and _named(patch):
        by_name = {item["name"]: item for item in base}
        for item in patch:
            by_name[item["name"]] = merged(by_name.get(item["name"]), item)
        return list(by_name.values())
    return deepcopy(patch)


def _named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, dict) and "name" in v for v in value)


def _config_map(
    directory: Path, name: str, files: list[str], options: dict[str, Any] | None = None
) -> Resource:
    data = {file: (directory / file).read_text() for file in files}
    metadata: Resource = {"name": name}
    given = dict(options or {})
    given.pop("disableNameSuffixHash", None)  # names have no digest here
    if labels := given.pop("labels", None):
        metadata["labels"] = labels
    if given:
        raise ValueError(f"{directory / FILE}: {sorted(given)} are not known here")
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _patched(
    resources: list[Resource], directory: Path, path: str, target: dict[str, str] | None = None
) -> list[Resource]:
    """Each resource that the patch is for, with it; one that is for none is an error."""
    (patch,) = documents(directory / path)
    name = None if target else patch["metadata"]["name"]
    kind = (target or patch)["kind"]
    change = {key: value for key, value in patch.items() if key != "metadata"}
    hits = [r["kind"] == kind and name in (None, r["metadata"]["name"]) for r in resources]
    if not any(hits):
        raise ValueError(f"{directory / path}: nothing to patch")
    return [
        merged(resource, change) if hit else resource
        for resource, hit in zip(resources, hits, strict=True)
    ]
