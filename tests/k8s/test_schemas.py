"""Every manifest is what Kubernetes and the custom resources' projects say it may be."""

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

VERSIONS = ("1.30", "1.37")  # the first in which a preStop sleep is on, and the newest known here


def distinct() -> dict[str, Resource]:
    """Each form that a resource has in any overlay, once, by a name for people."""
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
    """ValidationError unless it is valid; unknown fields are errors."""
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
    ("name", "spoil"),
    [
        ("Deployment-front", lambda own: own["spec"].update(replica=2)),
        ("Deployment-front", lambda own: own["spec"].update(replicas="two")),
        ("Deployment-front", lambda own: own["spec"].pop("selector")),
        ("Deployment-front", lambda own: container(own)["livenessProbe"].update(path="/healthz")),
        ("Deployment-engine", lambda own: container(own)["lifecycle"].update(preStart={})),
        ("Service-front", lambda own: own["spec"]["ports"][0].pop("port")),
        ("NetworkPolicy-engine", lambda own: own["spec"].update(ingres=[])),
        ("ScaledObject-engine", lambda own: own["spec"].update(minReplicas=1)),
        ("ScaledObject-engine", lambda own: own["spec"].pop("scaleTargetRef")),
        (
            "ScaledObject-engine",
            lambda own: own["spec"]["triggers"][0]["metadata"].update(threshold=24),
        ),
        ("Certificate-front", lambda own: own["spec"].pop("issuerRef")),
        ("PodMonitor-engine", lambda own: own["spec"].update(endpoints=[])),
        ("CronJob-probe", lambda own: own["spec"].pop("schedule")),
        ("CronJob-probe", lambda own: own["spec"]["jobTemplate"]["spec"].update(retries=1)),
        (
            "PrometheusRule-aligned-vq",
            lambda own: own["spec"]["groups"][0]["rules"][0].update({"for": "soon"}),
        ),
    ],
)
def test_a_spoilt_resource_is_refused(name: str, spoil: Callable[[Resource], object]) -> None:
    own: Resource = json.loads(
        json.dumps(RESOURCES[next(n for n in RESOURCES if n.endswith(name))])
    )
    check(own, VERSIONS[-1])
    spoil(own)
    with pytest.raises(ValidationError):
        check(own, VERSIONS[-1])


def test_every_file_is_listed_and_every_listed_file_is_there() -> None:
    listed: set[Path] = set()
    for path in MANIFESTS.rglob(FILE):
        own = yaml.safe_load(path.read_text())
        names = [*own.get("resources", ()), *own.get("components", ())]
        names += [patch["path"] for patch in own.get("patches", ())]
        names += [name for each in own.get("configMapGenerator", ()) for name in each["files"]]
        for name in names:
            found = (path.parent / name).resolve()
            assert found.exists(), f"{path}: {name}"
            listed.add(found / FILE if found.is_dir() else found)
    overlays = {MANIFESTS / "overlays" / name / FILE for name in OVERLAYS}
    assert listed | overlays == {path for path in MANIFESTS.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", OVERLAYS)
def test_nothing_is_there_twice_and_all_is_in_one_namespace(name: str) -> None:
    resources = overlay(name)
    names = [(own["kind"], own["metadata"]["name"]) for own in resources]
    assert len(names) == len(set(names))
    (namespace,) = [own["metadata"]["name"] for own in resources if own["kind"] == "Namespace"]
    for own in resources:
        assert own["kind"] == "Namespace" or own["metadata"]["namespace"] == namespace


def test_merging_is_strategic() -> None:
    base = {"a": 1, "gone": 2, "list": [1, 2], "named": [{"name": "x", "a": 1, "b": 1}]}
    patch = {"gone": None, "list": [3], "named": [{"name": "x", "b": 2}, {"name": "y"}]}
    assert merged(base, patch) == {
        "a": 1,
        "list": [3],
        "named": [{"name": "x", "a": 1, "b": 2}, {"name": "y"}],
    }


def test_what_is_not_known_of_kustomize_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("namePrefix: a-\n")
    with pytest.raises(ValueError, match="namePrefix"):
        build(tmp_path)
    (tmp_path / "patch.yaml").write_text("kind: Deployment\nmetadata: {name: nobody}\n")
    (tmp_path / FILE).write_text("patches: [{path: patch.yaml}]\n")
    with pytest.raises(ValueError, match="nothing to patch"):
        build(tmp_path)
