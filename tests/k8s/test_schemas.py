"""Every manifest is valid by the schemas of Kubernetes and of the custom resources."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError

from tests.k8s.custom_resources import SCHEMAS
from tests.k8s.kustomize import FILE, MANIFESTS, OVERLAYS, Resource, build, merged, overlay

VERSIONS = ("1.30", "1.37")  # the first with preStop's sleep, and the newest with a schema


def distinct() -> dict[str, Resource]:
    """Every distinct form of a resource in the overlays, by a readable name."""
    found: dict[str, Resource] = {}
    seen: set[str] = set()
    for name in OVERLAYS:
        for resource in overlay(name):
            text = json.dumps(resource, sort_keys=True)
            if text not in seen:
                seen.add(text)
                found[f"{name}-{resource['kind']}-{resource['metadata']['name']}"] = resource
    return found


RESOURCES = distinct()


def check(resource: Resource, version: str) -> None:
    """Validate a resource, in which unknown fields are errors; raises ValidationError."""
    schema = SCHEMAS.get((resource["apiVersion"], resource["kind"]))
    if schema is None:
        kubernetes_validate.validate(resource, version, strict=True)
    else:
        Draft202012Validator(schema).validate(resource)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", RESOURCES)
def test_every_resource_is_valid(name: str, version: str) -> None:
    check(RESOURCES[name], version)


def container(resource: Resource) -> Resource:
    found: Resource = resource["spec"]["template"]["spec"]["containers"][0]
    return found


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("Deployment-front", lambda resource: resource["spec"].update(replica=2)),
        ("Deployment-front", lambda resource: resource["spec"].update(replicas="two")),
        ("Deployment-front", lambda resource: resource["spec"].pop("selector")),
        (
            "Deployment-front",
            lambda resource: container(resource)["livenessProbe"].update(path="/healthz"),
        ),
        (
            "Deployment-engine",
            lambda resource: container(resource)["lifecycle"].update(preStart={}),
        ),
        ("Service-front", lambda resource: resource["spec"]["ports"][0].pop("port")),
        ("NetworkPolicy-engine", lambda resource: resource["spec"].update(ingres=[])),
        ("ScaledObject-engine", lambda resource: resource["spec"].update(minReplicas=1)),
        ("ScaledObject-engine", lambda resource: resource["spec"].pop("scaleTargetRef")),
        (
            "ScaledObject-engine",
            lambda resource: resource["spec"]["triggers"][0]["metadata"].update(threshold=24),
        ),
        ("Certificate-front", lambda resource: resource["spec"].pop("issuerRef")),
        ("PodMonitor-engine", lambda resource: resource["spec"].update(endpoints=[])),
        ("CronJob-probe", lambda resource: resource["spec"].pop("schedule")),
        (
            "CronJob-probe",
            lambda resource: resource["spec"]["jobTemplate"]["spec"].update(retries=1),
        ),
        (
            "PrometheusRule-aligned-vq",
            lambda resource: resource["spec"]["groups"][0]["rules"][0].update({"for": "soon"}),
        ),
    ],
)
def test_a_damaged_resource_is_refused(name: str, damage: Callable[[Resource], object]) -> None:
    resource: Resource = json.loads(
        json.dumps(RESOURCES[next(n for n in RESOURCES if n.endswith(name))])
    )
    check(resource, VERSIONS[-1])
    damage(resource)
    with pytest.raises(ValidationError):
        check(resource, VERSIONS[-1])


def test_every_file_is_listed_and_every_listed_file_exists() -> None:
    listed: set[Path] = set()
    for path in MANIFESTS.rglob(FILE):
        kustomization = yaml.safe_load(path.read_text())
        names = [*kustomization.get("resources", ()), *kustomization.get("components", ())]
        names += [patch["path"] for patch in kustomization.get("patches", ())]
        names += [
            name for each in kustomization.get("configMapGenerator", ()) for name in each["files"]
        ]
        for name in names:
            found = (path.parent / name).resolve()
            assert found.exists(), f"{path}: {name}"
            listed.add(found / FILE if found.is_dir() else found)
    overlays = {MANIFESTS / "overlays" / name / FILE for name in OVERLAYS}
    assert listed | overlays == {path for path in MANIFESTS.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", OVERLAYS)
def test_resources_are_unique_and_in_one_namespace(name: str) -> None:
    resources = overlay(name)
    names = [(resource["kind"], resource["metadata"]["name"]) for resource in resources]
    assert len(names) == len(set(names))
    (namespace,) = [
        resource["metadata"]["name"] for resource in resources if resource["kind"] == "Namespace"
    ]
    for resource in resources:
        assert resource["kind"] == "Namespace" or resource["metadata"]["namespace"] == namespace


def test_merging_is_strategic() -> None:
    base = {"a": 1, "gone": 2, "list": [1, 2], "named": [{"name": "x", "a": 1, "b": 1}]}
    patch = {"gone": None, "list": [3], "named": [{"name": "x", "b": 2}, {"name": "y"}]}
    assert merged(base, patch) == {
        "a": 1,
        "list": [3],
        "named": [{"name": "x", "a": 1, "b": 2}, {"name": "y"}],
    }


def test_unsupported_features_of_kustomize_are_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("namePrefix: a-\n")
    with pytest.raises(ValueError, match="namePrefix"):
        build(tmp_path)
    (tmp_path / "patch.yaml").write_text("kind: Deployment\nmetadata: {name: nobody}\n")
    (tmp_path / FILE).write_text("patches: [{path: patch.yaml}]\n")
    with pytest.raises(ValueError, match="nothing to patch"):
        build(tmp_path)
