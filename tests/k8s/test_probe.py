"""The probe of the fleet: what it asks, with which certificate, and whom it may reach."""

from __future__ import annotations

from pathlib import PurePosixPath

from edge_client.cli import _parser as edge_parser
from tests.k8s.kustomize import overlay
from tests.k8s.test_manifests import GUIDE, NAME, container, of, ports


def test_the_probe_asks_the_front_tier_with_a_certificate() -> None:
    resources = overlay("fleet")
    (job,) = of(resources, "CronJob")
    own = container(resources, "probe")
    options = edge_parser().parse_args([*own["args"]])
    assert options.check.ask
    limit = job["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"]
    assert options.check.deadline < limit
    host, _, port = options.check.target.removeprefix("dns:///").rpartition(":")
    assert int(port) == ports(resources, "front")["grpc"]
    for certificate in of(resources, "Certificate"):
        assert host in certificate["spec"]["dnsNames"]
    names = {resource["metadata"]["name"] for resource in of(resources, "Service")}
    assert host.split(".")[0] in names
    mounted = {mount["mountPath"] for mount in own["volumeMounts"]}
    for key in ("ca", "certificate", "key"):
        path = PurePosixPath(options.check[key])
        assert str(path.parent) in mounted
        assert f"--from-file={path.name}=certs/" in GUIDE
    (policy,) = [
        each for each in of(resources, "NetworkPolicy") if each["metadata"]["name"] == "probe"
    ]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy["spec"]
    front, names_only = policy["spec"]["egress"]
    assert front == {
        "to": [{"podSelector": {"matchLabels": {NAME: "front"}}}],
        "ports": [{"port": ports(resources, "front")["grpc"]}],
    }
    assert {each["port"] for each in names_only["ports"]} == {53}
