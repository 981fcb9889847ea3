"""The deployment files: their schemas, the options that they name, the settings that they hold."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from gritlm.scale.serving.config import read

DEPLOY = Path(__file__).parents[1] / "deploy"


def loaded(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def served_options() -> set[str]:
    import typer

    from gritlm.cli.app import create_app

    command = typer.main.get_command(create_app()).commands["serve"]  # type: ignore[attr-defined]
    return {str(option.envvar) for option in command.params if option.envvar}


def test_the_ray_application_has_settings_that_can_be_read():
    (application,) = loaded("ray-serve.yml")["applications"]
    settings = read(application["args"])
    assert settings.replicas.most == 2
    schema = pytest.importorskip("ray.serve.schema", reason="Ray is not installed")
    schema.ServeDeploySchema(**loaded("ray-serve.yml"))


def test_the_kuberay_manifest_holds_an_application_of_the_ray_that_is_tested():
    manifest = loaded("kuberay.yml")
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayService")
    config = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    (application,) = config["applications"]
    settings = read(application["args"])
    cluster = manifest["spec"]["rayClusterConfig"]
    worker = cluster["workerGroupSpecs"][0]
    (container,) = worker["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert settings.replicas.gpus == int(limits["nvidia.com/gpu"])
    assert settings.replicas.cpus <= int(limits["cpu"])
    assert settings.replicas.most == worker["maxReplicas"]
    pins = (DEPLOY.parent / "constraints.txt").read_text(encoding="utf-8")
    assert f"ray=={cluster['rayVersion']}\n" in pins
    assert cluster["rayVersion"] in (DEPLOY / "Dockerfile.ray").read_text(encoding="utf-8")
    schema = pytest.importorskip("ray.serve.schema", reason="Ray is not installed")
    schema.ServeDeploySchema(**config)


def test_compose_names_files_that_exist_and_options_of_serve():
    compose = loaded("compose.yml")
    services = compose["services"]
    assert set(services) == {"gritlm", "prometheus", "grafana", "chat"}
    known = served_options()
    for name in services["gritlm"]["environment"]:
        assert name in known
    for service in services.values():
        assert service.get("image") or (DEPLOY / service["build"]["context"]).is_dir()
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            is_file = source.startswith(".")
            assert (DEPLOY / source).is_file() if is_file else source in compose["volumes"]
    for name in ("prometheus.yml", "grafana/datasource.yml", "grafana/dashboards.yml"):
        assert loaded(name)
    assert json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))["uid"] == "gritlm"


def test_the_page_of_docker_names_services_ports_volumes_and_variables_that_exist():
    page = (DEPLOY.parent / "docs" / "docker.md").read_text(encoding="utf-8")
    compose = loaded("compose.yml")
    rows = {row[0]: row for row in re.findall(r"^\| `(\w+)` \| (.*?) \|(?: .* \|)?$", page, re.M)}
    for name, service in compose["services"].items():
        ports = [port.rpartition(":")[0] for port in service.get("ports", [])]
        assert [f"http://{port}" for port in ports] == re.findall(r"http://\S+", rows[name][1])
    volumes = {f"{compose['name']}_{volume}" for volume in compose["volumes"]}
    assert volumes == {name for name in rows if name.startswith(f"{compose['name']}_")}
    assert set(re.findall(r"gritlm_\w+", page)) <= volumes
    assert set(re.findall(r"GRITLM_\w+", page)) <= served_options()
    arguments = re.findall(r"^ARG (\w+)", container_file(), re.M)
    assert {name for name in rows if name.isupper()} == set(arguments)
    assert set(compose["services"]["gritlm"]["build"]["args"]) <= set(arguments)


def container_file() -> str:
    return (DEPLOY.parent / "Dockerfile").read_text(encoding="utf-8")


def test_the_image_has_all_that_the_build_of_the_package_reads():
    """The wheel is built in the image, from the files that .dockerignore lets in."""
    lines = (DEPLOY.parent / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(.*) \./", container_file(), re.M)
        for name in line.split()
    }
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text(encoding="utf-8"))
    read = {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"}
    assert lines[0] == "*"
    assert copied == allowed
    assert read | {"src", "constraints.txt"} == allowed


def test_the_chart_names_values_that_exist_and_options_of_serve():
    chart = DEPLOY / "helm" / "gritlm"
    values = yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8"))
    known = served_options()
    for template in (chart / "templates").glob("*.yaml"):
        text = template.read_text(encoding="utf-8")
        for path in re.findall(r"\.Values\.([\w.]+)", text):
            found: Any = values
            for part in path.split("."):
                assert part in found, f"{template.name}: {path}"
                found = found[part]
        assert len(re.findall(r"\{\{[^{}]*\}\}", text)) == text.count("{{")
        assert set(re.findall(r"GRITLM_\w+", text)) <= known
