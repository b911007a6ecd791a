"""What infra/ holds is valid, pinned, and says the same in each of its forms. That it runs is test_compose_runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.checkout import ROOT

INFRA = ROOT / "infra"
BASE = INFRA / "kubernetes" / "base"
COMPOSE = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]
OVERLAYS = [BASE, *sorted((INFRA / "kubernetes" / "overlays").iterdir())]
# Of KubeRay's CustomResourceDefinitions, v1 (kuberay: helm-chart/kuberay-operator/crds): the fields that we may use.
CLUSTER = {
    "": {
        "rayVersion",
        "authOptions",
        "enableInTreeAutoscaling",
        "autoscalerOptions",
        "headGroupSpec",
        "workerGroupSpecs",
    },
    "authOptions": {"mode", "secretName"},
    "headGroupSpec": {"rayStartParams", "template", "serviceType", "labels", "resources"},
    "workerGroupSpecs": {
        *("groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "template"),
        *("idleTimeoutSeconds", "scaleStrategy", "suspend", "labels", "resources"),
    },
}
JOB = {
    *("entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "activeDeadlineSeconds"),
    *("rayClusterSpec", "runtimeEnvYAML", "submissionMode", "suspend"),
}


def resources(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("*.yaml")):
        if file.name != "kustomization.yaml":
            yield from yaml.safe_load_all(file.read_text())


def pods(resource: Any) -> Iterator[dict[str, Any]]:
    """Specs of all pods that a resource makes, however deep they lie in it."""
    if isinstance(resource, dict):
        if "containers" in resource:
            yield resource
        for value in resource.values():
            yield from pods(value)
    elif isinstance(resource, list):
        for value in resource:
            yield from pods(value)


def containers(*folders: Path) -> Iterator[dict[str, Any]]:
    for folder in folders:
        for resource in resources(folder):
            for pod in pods(resource):
                yield from [*pod.get("initContainers", ()), *pod["containers"]]


def check(resource: dict[str, Any]) -> None:
    """Against Kubernetes' own schemas; of Ray's resources the pods in them. Raises ValidationError."""
    if not resource["apiVersion"].startswith("ray.io/"):
        kubernetes_validate.validate(resource, "1.37", strict=True)
        return
    found = list(pods(resource))
    assert found
    for pod in found:
        made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "checked"}, "spec": pod}
        kubernetes_validate.validate(made, "1.37", strict=True)
    spec = resource["spec"]
    if resource["kind"] == "RayJob":
        assert spec.keys() <= JOB
        spec = spec["rayClusterSpec"]
    assert spec.keys() <= CLUSTER[""]
    assert spec["authOptions"].keys() <= CLUSTER["authOptions"] and spec["authOptions"]["mode"] == "token"
    assert spec["headGroupSpec"].keys() <= CLUSTER["headGroupSpec"]
    for group in spec.get("workerGroupSpecs", ()):
        assert group.keys() <= CLUSTER["workerGroupSpecs"] and {"groupName", "template"} <= group.keys()


@pytest.mark.parametrize(
    "resource", [*resources(BASE), *resources(INFRA / "kubernetes" / "jobs")], ids=lambda one: one["kind"]
)
def test_every_resource_is_valid(resource: dict[str, Any]) -> None:
    check(resource)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_every_overlay_builds(folder: Path) -> None:
    built = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True).stdout
    made = list(yaml.safe_load_all(built))
    for resource in made:
        check(resource)
    images = {one["image"] for resource in made for pod in pods(resource) for one in pod["containers"]}
    assert images == {"vitflow:cpu" if folder == BASE else "vitflow:cuda", "postgres:17.6-bookworm"}
    (workers,) = [one for resource in made if resource["metadata"]["name"] == "worker" for one in pods(resource)]
    assert [one["name"] for one in workers["containers"][0]["env"]].count("VITFLOW_WORKERS") == 1


def test_compose_is_as_its_specification_says() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run(
        [*command, INFRA / "compose.yaml", INFRA / "compose.gpu.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(
    shutil.which("docker") is None or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode,
    reason="needs docker with its compose plugin",
)
@pytest.mark.parametrize("files", [("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")])
def test_docker_compose_takes_it(files: tuple[str, ...], tmp_path: Path) -> None:
    """And refuses to go on without the secrets."""
    example = (INFRA / ".env.example").read_text()
    (tmp_path / "env").write_text(re.sub(r"=$", "=0123456789abcdef", example, flags=re.MULTILINE))
    named = [word for file in files for word in ("--file", str(INFRA / file))]

    def config(settings: Path) -> subprocess.CompletedProcess[str]:
        command = ["docker", "compose", *named, "--env-file", str(settings), "config", "--quiet"]
        return subprocess.run(command, env=os.environ | {"GPUS": "8"}, capture_output=True, text=True, check=False)

    done = config(tmp_path / "env")
    assert done.returncode == 0, done.stderr
    assert "required variable" in config(INFRA / ".env.example").stderr


def test_a_wrong_key_would_be_noticed(tmp_path: Path) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text((INFRA / "compose.yaml").read_text().replace("healthcheck:", "healtcheck:"))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", broken]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
    (pod,) = pods(next(one for one in resources(BASE) if one["kind"] == "Deployment"))
    wrong = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod | {"containres": []}}
    with pytest.raises(kubernetes_validate.ValidationError):
        check(wrong)


def test_both_forms_run_the_same_commands() -> None:
    """A service's command in Kubernetes is the one in compose, which a test runs."""
    there = {one["name"]: one["command"] for one in containers(BASE) if "command" in one}
    assert there.keys() == {"migrate", "prefect", "mlflow", "deploy", "worker"}
    for name, command in there.items():
        assert command == COMPOSE[name]["command"], name


def test_every_image_is_pinned_and_ray_is_the_installed_one() -> None:
    tags = [service["image"] for service in COMPOSE.values()]
    tags += [one["image"] for one in containers(BASE, INFRA / "kubernetes" / "jobs") if one["image"] != "vitflow"]
    tags += re.findall(r"^FROM (\S+:\S+)", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    for tag in tags:
        assert re.fullmatch(r"[\w./-]+:(v?\d+\.\d+[\w.-]*|cpu|cuda|\$\{VITFLOW_TARGET:-cpu\})", tag), tag
    ray = re.search(r"^ray==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert ray is not None
    for folder in (BASE, INFRA / "kubernetes" / "jobs"):
        for version in re.findall(r"rayVersion: \"(\S+)\"", "".join(f.read_text() for f in folder.glob("*.yaml"))):
            assert version == ray[1]


def test_no_secret_has_a_default_and_every_setting_is_in_the_example() -> None:
    text = (INFRA / "compose.yaml").read_text() + (INFRA / "compose.gpu.yaml").read_text()
    example = dict(re.findall(r"^(\w+)=(.*)$", (INFRA / ".env.example").read_text(), re.MULTILINE))
    used = set(re.findall(r"\$\{(\w+)", text))
    assert used - {"GPUS"} == example.keys()
    for name in used:
        if re.search(r"PASSWORD|KEY|TOKEN", name):
            assert example[name] == "", f"{name} has a default"
            assert f"${{{name}:?" in text and f"${{{name}:-" not in text, f"{name} may be left out"


def test_servers_are_offered_to_this_machine_only_unless_told_otherwise() -> None:
    for name, service in COMPOSE.items():
        for port in service.get("ports", ()):
            assert port.startswith("${BIND:-127.0.0.1}:"), name


def test_the_databases_are_the_same_everywhere() -> None:
    (config,) = [one for one in resources(BASE) if one["metadata"]["name"] == "databases"]
    assert config["data"]["databases.sql"].split() == (INFRA / "postgres" / "databases.sql").read_text().split()


def test_containers_have_limits_and_no_root() -> None:
    for folder in (BASE, INFRA / "kubernetes" / "jobs"):
        for resource in resources(folder):
            for pod in pods(resource):
                assert (
                    json.dumps(pod["securityContext"]).find("runAsNonRoot") > 0
                    or pod["containers"][0]["name"] == "postgres"
                )
                assert all("memory" in one["resources"]["limits"] for one in pod["containers"])
