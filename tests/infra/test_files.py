"""The files of infra/ are what the programs that read them expect, and no secret is written in them."""

import json
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private import util as launcher
from ray.autoscaler._private.kuberay import autoscaling_config

from workflows.shared import metrics

INFRA = Path(__file__).parents[2] / "infra"
KUBERNETES = "1.34"
# The fields of KubeRay's reference of its API (v1.5), which no package has as a schema.
KUBERAY = {
    "RayJob": "entrypoint submissionMode submitterConfig backoffLimit activeDeadlineSeconds shutdownAfterJobFinishes "
    "ttlSecondsAfterFinished rayClusterSpec runtimeEnvYAML jobId suspend",
    "RayCluster": "rayVersion authOptions enableInTreeAutoscaling autoscalerOptions headGroupSpec workerGroupSpecs",
    "head": "rayStartParams template headService serviceType enableIngress",
    "worker": "groupName replicas minReplicas maxReplicas idleTimeoutSeconds rayStartParams template numOfHosts",
    "autoscaler": "upscalingMode idleTimeoutSeconds resources image imagePullPolicy env envFrom volumeMounts version",
}


def tool(name: str, *arguments: str | Path) -> None:
    """Run a program that a package of this environment brings; what it finds is shown."""
    program = Path(sys.executable).with_name(name)
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def test_dockerfile_is_clean_pinned_and_without_root() -> None:
    path = INFRA / "Dockerfile"
    tool("hadolint", path)
    text = path.read_text()
    stages = {stage.split()[2]: stage for stage in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]}
    assert set(stages) == {"base", "node", "cpu", "cuda", "mlflow"}
    for name in ("cpu", "cuda", "mlflow"):
        assert "\nUSER $UID\n" in stages[name]
    installs = re.findall(r"pip install .*", text)
    assert len(installs) == 5
    assert all("--constraint /src/infra/constraints.txt" in install for install in installs)


def test_images_are_built_from_what_the_context_keeps() -> None:
    copied = re.findall(r"^COPY (.*) \S+$", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    kept = (INFRA / "Dockerfile.dockerignore").read_text().split("\n*\n")[1]
    assert {f"!{name}" for names in copied for name in names.split()} == set(re.findall(r"^!.*", kept, re.MULTILINE))


def test_scripts_are_clean() -> None:
    tool("shellcheck", INFRA / "slurm" / "train.sbatch", INFRA / "secrets.sh")


def test_compose_fits_its_schema_and_waits_for_health() -> None:
    path = INFRA / "compose.yaml"
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)
    services = yaml.safe_load(path.read_text())["services"]
    assert {name for name, service in services.items() if "healthcheck" not in service} == {"bucket"}, (
        "it ends by itself"
    )
    for service in services.values():
        for needed in service.get("depends_on", {}):
            assert needed in services
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for name in ("head", "worker"):
        assert services[name]["environment"]["RAY_AUTH_MODE"] == "token"


def test_secrets_are_drawn_once_for_compose_and_for_nobody_else(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    subprocess.run(["bash", INFRA / "secrets.sh", folder], check=True)
    wanted = {
        Path(one["file"]).name for one in yaml.safe_load((INFRA / "compose.yaml").read_text())["secrets"].values()
    }
    assert {path.name for path in folder.iterdir()} == wanted
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    password = (folder / "postgres_password").read_text().strip()
    assert re.fullmatch(r"[0-9a-f]{48}", password)
    assert (folder / "pgpass").read_text() == f"db:5432:*:mlflow:{password}\n"
    assert len({(folder / name).read_text() for name in ("ray_token", "s3_password", "postgres_password")}) == 3
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert subprocess.run(["bash", INFRA / "secrets.sh", folder], stderr=subprocess.PIPE, check=False).returncode != 0
    assert {path.name: path.read_text() for path in folder.iterdir()} == before, "secrets that are in use were replaced"


def environments(node: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of every environment variable below a node of a YAML file; None is a reference."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "environment":
                yield from value.items()
            elif key == "env":
                yield from ((one["name"], one.get("value")) for one in value)
            yield from environments(value)
    elif isinstance(node, list):
        for one in node:
            yield from environments(one)


@pytest.mark.parametrize(
    "path", [INFRA / "compose.yaml", *sorted((INFRA / "kuberay").glob("*.yaml"))], ids=lambda p: p.name
)
def test_no_secret_is_written(path: Path) -> None:
    secret = re.compile(r"PASSWORD|TOKEN|SECRET|KEY|CREDENTIALS")
    for name, value in environments(documents(path)):
        if secret.search(name) and value is not None:
            assert name.endswith(("_FILE", "_PATH")), f"{name} has a value"
            assert value.startswith("/run/secrets/")
    assert not re.search(r"://[^/\s]*:[^/\s]*@", path.read_text()), "a password stands in an address"


def kuberay(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest and the spec of its cluster."""
    (manifest,) = documents(INFRA / "kuberay" / name)
    spec = manifest["spec"]
    return manifest, spec.get("rayClusterSpec", spec)


@pytest.mark.parametrize("name", ["rayjob.yaml", "raycluster.yaml"])
def test_pods_fit_the_schemas_of_kubernetes(name: str) -> None:
    manifest, spec = kuberay(name)
    assert set(manifest["spec"]) <= set(KUBERAY[manifest["kind"]].split())
    assert set(spec) <= set(KUBERAY["RayCluster"].split())
    assert set(spec["headGroupSpec"]) <= set(KUBERAY["head"].split())
    assert set(spec.get("autoscalerOptions", {})) <= set(KUBERAY["autoscaler"].split())
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "likeness"
    assert spec["authOptions"] == {"mode": "token"}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        assert group["template"]["spec"]["securityContext"]["runAsNonRoot"]
    assert all(set(group) <= set(KUBERAY["worker"].split()) for group in spec["workerGroupSpecs"])


def test_the_volume_fits_its_schema() -> None:
    volume, queue = documents(INFRA / "kuberay" / "storage.yaml")
    kubernetes_validate.validate(volume, KUBERNETES, strict=True)
    assert (volume["spec"]["accessModes"], queue["kind"]) == (["ReadWriteMany"], "LocalQueue")


def test_ray_reads_the_groups_of_a_cluster() -> None:
    groups = {}
    for name in ("rayjob.yaml", "raycluster.yaml"):
        manifest, spec = kuberay(name)
        about = {"name": manifest["metadata"]["name"], "namespace": "likeness"}
        read = autoscaling_config._derive_autoscaling_config_from_ray_cr({"metadata": about, "spec": spec})
        groups[name] = read["available_node_types"]
    assert groups["raycluster.yaml"]["headgroup"]["resources"]["CPU"] == 0
    training, decoding = (groups["raycluster.yaml"][name] for name in ("training", "decoding"))
    assert training["resources"]["GPU"] == 1
    assert training["max_workers"] > training["min_workers"]
    assert "GPU" not in decoding["resources"]
    assert decoding["max_workers"] > decoding["min_workers"]
    assert groups["rayjob.yaml"]["training"]["min_workers"] == groups["rayjob.yaml"]["training"]["max_workers"] == 2


def test_a_lost_head_is_replaced_and_the_same_command_continues() -> None:
    job = kuberay("rayjob.yaml")[0]["spec"]
    assert job["backoffLimit"] > 0
    assert job["submissionMode"] == "K8sJobMode"
    assert job["shutdownAfterJobFinishes"]
    assert "jobId" not in job, "Ray refuses a job of an id that it has seen"
    assert re.search(r"--out (s3://|/shared/)", job["entrypoint"]), "the model must outlive the cluster"


def test_ray_prepares_the_launcher_s_file() -> None:
    config = launcher.prepare_config(documents(INFRA / "ray-cluster.yaml")[0])
    launcher.validate_config(config)
    assert config["max_workers"] == len(config["provider"]["worker_ips"])
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]


def test_dashboard_asks_for_every_figure_and_no_other() -> None:
    dashboard = json.loads((INFRA / "grafana" / "likeness.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    names = {name for text in asked for name in re.findall(r"\bray_\w+", text)}
    assert names == {f"ray_likeness_{name}" for name in metrics.GAUGES}
    asked += [one["query"]["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    assert {label for text in asked for label in re.findall(r"(\w+)=~", text)} == set(metrics.TAGS)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_prometheus_asks_the_nodes_of_compose() -> None:
    (job,) = yaml.safe_load((INFRA / "prometheus.yaml").read_text())["scrape_configs"]
    (nodes,) = job["dns_sd_configs"]
    services = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]
    assert job["honor_labels"]
    assert {name for name, one in services.items() if "ray start" in str(one.get("command"))} == set(nodes["names"])
    for name in nodes["names"]:
        assert f"--metrics-export-port {nodes['port']}" in services[name]["command"]
