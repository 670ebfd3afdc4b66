"""Manifests agree with each other and with the service's settings, and limit connections."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from cloud_server.cli import _config, _parser
from tests.k8s.kustomize import MANIFESTS, OVERLAYS, Resource, overlay

NAME = "app.kubernetes.io/name"
SETTINGS: dict[str, Any] = yaml.safe_load((MANIFESTS / "base/front/cloud.yaml").read_text())
GUIDE = (MANIFESTS.parents[1] / "docs" / "scaling.md").read_text()
CLOSING_SECONDS = 10

pytestmark = pytest.mark.parametrize(
    "resources", [overlay(name) for name in OVERLAYS], ids=OVERLAYS
)


def of(resources: list[Resource], kind: str) -> list[Resource]:
    return [resource for resource in resources if resource["kind"] == kind]


def templates(resources: list[Resource]) -> dict[str, Resource]:
    """Pod templates by the name of their Deployment or CronJob."""
    jobs = {
        resource["metadata"]["name"]: resource["spec"]["jobTemplate"]
        for resource in of(resources, "CronJob")
    }
    makers = {
        resource["metadata"]["name"]: resource for resource in of(resources, "Deployment")
    } | jobs
    return {name: maker["spec"]["template"] for name, maker in makers.items()}


def pod(resources: list[Resource], name: str) -> Resource:
    found: Resource = templates(resources)[name]["spec"]
    return found


def container(resources: list[Resource], name: str) -> Resource:
    (found,) = pod(resources, name)["containers"]
    assert isinstance(found, dict)
    return found


def chosen(resources: list[Resource], labels: dict[str, str]) -> list[str]:
    """Deployments and CronJobs whose pods have these labels."""
    return [
        name
        for name, template in templates(resources).items()
        if labels.items() <= template["metadata"]["labels"].items()
    ]


def ports(resources: list[Resource], name: str) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(resources, name)["ports"]}


def option(resources: list[Resource], name: str) -> str:
    """The value of an engine's option, with its environment variables substituted."""
    engine = container(resources, "engine")
    (found,) = [arg for arg in engine["args"] if arg.startswith(f"--{name}=")]
    values = {each["name"]: each["value"] for each in engine["env"]}
    return re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], found.partition("=")[2])


def walk(value: Any, key: str) -> Iterator[Any]:
    """All values of a key, at any depth."""
    if isinstance(value, dict):
        for name, each in value.items():
            if name == key:
                yield each
            yield from walk(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from walk(each, key)


def test_every_selector_finds_the_pods_of_one_workload(resources: list[Resource]) -> None:
    for resource in resources:
        for labels in (*walk(resource, "matchLabels"), *walk(resource, "selector")):
            if NAME in labels and labels[NAME] != "prometheus":
                assert len(chosen(resources, labels)) == 1
        spec = resource.get("spec", {})
        mine = spec.get("selector", spec.get("podSelector"))
        if mine is not None:
            (found,) = chosen(resources, mine.get("matchLabels", mine))
            assert resource["metadata"]["name"].startswith(found)


def test_every_port_that_is_named_exists(resources: list[Resource]) -> None:
    for resource in of(resources, "Deployment"):
        name = resource["metadata"]["name"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container(resources, name)[probe]["httpGet"]["port"] in ports(resources, name)
    for resource in of(resources, "Service"):
        (name,) = chosen(resources, resource["spec"]["selector"])
        for port in resource["spec"]["ports"]:
            assert ports(resources, name)[port["targetPort"]] == port["port"]
    for resource in of(resources, "PodMonitor"):
        (name,) = chosen(resources, resource["spec"]["selector"]["matchLabels"])
        for endpoint in resource["spec"]["podMetricsEndpoints"]:
            assert endpoint["port"] in ports(resources, name)


def test_mounts_name_volumes_and_volumes_name_existing_objects(resources: list[Resource]) -> None:
    by_hand = set(re.findall(r"create secret (?:generic|tls) ([\w-]+)", GUIDE))
    there = {
        "configMap": {resource["metadata"]["name"] for resource in of(resources, "ConfigMap")},
        "persistentVolumeClaim": {
            resource["metadata"]["name"] for resource in of(resources, "PersistentVolumeClaim")
        },
        "secret": by_hand
        | {resource["spec"]["secretName"] for resource in of(resources, "Certificate")},
    }
    for template in templates(resources).values():
        spec = template["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        mounts = [mount["name"] for mount in spec["containers"][0]["volumeMounts"]]
        assert sorted(volumes) == sorted(mounts)
        for volume in volumes.values():
            for kind, key in (
                ("configMap", "name"),
                ("secret", "secretName"),
                ("persistentVolumeClaim", "claimName"),
            ):
                if kind in volume:
                    assert volume[kind][key] in there[kind]
    for resource in of(resources, "Issuer"):
        assert resource["spec"]["ca"]["secretName"] in by_hand
    for resource in of(resources, "Certificate"):
        names = {issuer["metadata"]["name"] for issuer in of(resources, "Issuer")}
        assert resource["spec"]["issuerRef"]["name"] in names
        assert resource["spec"]["secretName"] in walk(of(resources, "Deployment"), "secretName")


def test_only_autoscalers_set_the_number_of_replicas(resources: list[Resource]) -> None:
    scaled = [
        resource["spec"]["scaleTargetRef"]["name"]
        for resource in resources
        if resource["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")
    ]
    assert len(scaled) == len(set(scaled))
    for resource in of(resources, "Deployment"):
        assert ("replicas" in resource["spec"]) != (resource["metadata"]["name"] in scaled)
    assert not scaled or sorted(scaled) == ["engine", "front"]


def test_the_service_accepts_its_settings(resources: list[Resource], tmp_path: Path) -> None:
    (config_map,) = [
        resource
        for resource in of(resources, "ConfigMap")
        if resource["metadata"]["name"] == "front-settings"
    ]
    settings = yaml.safe_load(config_map["data"]["cloud.yaml"])
    front = container(resources, "front")
    mounted = {mount["mountPath"]: mount["name"] for mount in front["volumeMounts"]}
    (file,) = [arg.partition("=")[2] for arg in front["args"] if arg.startswith("--config=")]
    assert mounted[str(PurePosixPath(file).parent)] == "settings"
    assert PurePosixPath(file).name in config_map["data"]
    path = tmp_path / "cloud.yaml"
    path.write_text(yaml.safe_dump(settings))
    config = _config(_parser().parse_args(["serve", f"--config={path}"]).serve)
    assert ports(resources, "front") == {"grpc": config.port, "operators": config.http_port}
    for key in ("tls_certificate", "tls_key", "tls_clients", "bundle", "model"):
        assert str(PurePosixPath(settings[key]).parent) in mounted, key


def test_questions_are_never_accepted_unencrypted(resources: list[Resource]) -> None:
    assert "plaintext" not in SETTINGS
    assert SETTINGS["http_plaintext"] is True
    volumes = {volume["name"]: volume for volume in pod(resources, "front")["volumes"]}
    mounted = {
        mount["mountPath"]: mount["name"] for mount in container(resources, "front")["volumeMounts"]
    }
    secrets = {}
    for key in ("tls_certificate", "tls_key", "tls_clients"):
        path = PurePosixPath(SETTINGS[key])
        secret = volumes[mounted[str(path.parent)]]["secret"]["secretName"]
        secrets[key] = (secret, path.name)
    assert secrets == {
        "tls_certificate": ("front-tls", "tls.crt"),
        "tls_key": ("front-tls", "tls.key"),
        "tls_clients": ("front-clients", "ca.crt"),
    }
    assert "create secret tls front-tls" in GUIDE  # makes tls.crt and tls.key
    assert "create secret generic front-clients --from-file=ca.crt=" in GUIDE


def test_pods_end_late_enough_for_running_answers(resources: list[Resource]) -> None:
    shutdown = int(option(resources, "shutdown-timeout"))
    for name, drain in (("front", SETTINGS["drain_seconds"]), ("engine", shutdown)):
        assert drain >= SETTINGS["max_answer_seconds"]
        sleep = container(resources, name)["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert sleep > 0
        grace = pod(resources, name)["terminationGracePeriodSeconds"]
        assert grace >= sleep + drain + CLOSING_SECONDS


def test_pods_run_without_privileges(resources: list[Resource]) -> None:
    for name in templates(resources):
        spec, main = pod(resources, name), container(resources, name)
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert main["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert main["resources"]["limits"]["memory"]
        assert main["resources"]["requests"].keys() == {"cpu", "memory"}
        for mount in main["volumeMounts"]:
            assert mount.get("readOnly") or mount["mountPath"] in ("/tmp", "/dev/shm")


def test_only_the_front_tier_reaches_engines(resources: list[Resource]) -> None:
    guarded = [
        policy
        for policy in of(resources, "NetworkPolicy")
        if policy["spec"]["podSelector"]["matchLabels"] == {NAME: "engine"}
    ]
    assert any(
        policy["spec"]["policyTypes"] == ["Ingress", "Egress"] and policy["spec"]["egress"] == []
        for policy in guarded
    )
    peers = []
    for policy in guarded:
        assert "Ingress" in policy["spec"]["policyTypes"]
        for rule in policy["spec"].get("ingress", ()):
            assert [port["port"] for port in rule["ports"]] == [ports(resources, "engine")["http"]]
            peers += rule["from"]  # a rule without `from` admits every host
    allowed = [{"podSelector": {"matchLabels": {NAME: "front"}}}]
    if of(resources, "PodMonitor"):
        allowed.append(
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
                "podSelector": {"matchLabels": {NAME: "prometheus"}},
            }
        )
    assert sorted(peers, key=str) == sorted(allowed, key=str)
    services = [
        service
        for service in of(resources, "Service")
        if service["spec"]["selector"][NAME] == "engine"
    ]
    for service in services:
        assert service["spec"]["clusterIP"] == "None"
        assert "type" not in service["spec"]


def test_the_front_tier_is_reached_by_grpc_only_and_reaches_engines_only(
    resources: list[Resource],
) -> None:
    (policy,) = [
        each for each in of(resources, "NetworkPolicy") if each["metadata"]["name"] == "front"
    ]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["ingress"] == [{"ports": [{"port": ports(resources, "front")["grpc"]}]}]
    engines, names = policy["spec"]["egress"]
    assert engines == {
        "to": [{"podSelector": {"matchLabels": {NAME: "engine"}}}],
        "ports": [{"port": ports(resources, "engine")["http"]}],
    }
    assert {port["port"] for port in names["ports"]} == {53}
    (service,) = [each for each in of(resources, "Service") if each["metadata"]["name"] == "engine"]
    assert f"http://engine:{service['spec']['ports'][0]['port']}" in SETTINGS["engine_urls"]


def test_options_of_engines_agree_with_resources_and_settings(
    resources: list[Resource],
) -> None:
    limits = container(resources, "engine")["resources"]["limits"]
    assert option(resources, "tensor-parallel-size") == limits["nvidia.com/gpu"]
    assert int(option(resources, "port")) == ports(resources, "engine")["http"]
    assert option(resources, "model") == SETTINGS["model"]
    assert option(resources, "bundle") == SETTINGS["bundle"]
    assert json.loads(option(resources, "limit-mm-per-prompt")) == {"image": 1}
