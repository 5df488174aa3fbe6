"""The files of docs/deploy: every option and variable in them is the server's; linters were run by hand."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from limner.runtime.cli import main
from limner.runtime.errors import InputError

DEPLOY = Path(__file__).resolve().parents[3] / "docs" / "deploy"
FILES = sorted(path for path in DEPLOY.iterdir() if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_options_and_variables_are_the_servers(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["serve", "--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    served = "\n".join(
        line for line in path.read_text().splitlines()
        if re.search(r"ENTRYPOINT|^CMD|ExecStart|command:|args:", line)
    )  # fmt: skip
    assert set(re.findall(r"--[a-z][a-z-]+", served)) <= known
    table = (DEPLOY.parent / "reference" / "environment.md").read_text()
    for name in re.findall(r"LIMNER_[A-Z_]+", path.read_text()):
        assert f"`{name}`" in table


def test_the_application_of_ray_serve_is_one() -> None:
    """By Ray Serve's own schema; and its arguments are taken."""
    schema = pytest.importorskip("ray.serve.schema")
    from limner.runtime.server.ray_app import app

    document = next(yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text()))
    config = schema.ServeDeploySchema.model_validate(yaml.safe_load(document["spec"]["serveConfigV2"]))
    arguments = config.applications[0].args
    assert config.applications[0].import_path == "limner.runtime.server.ray_app:app"
    assert app(arguments)._bound_deployment.name == "front"
    assert document["spec"]["rayClusterConfig"]["authOptions"] == {"mode": "token"}
    with pytest.raises(InputError, match="replicas_mots"):
        app(arguments | {"replicas_mots": 1})
    with pytest.raises(InputError, match="key_file"):
        app({"work": "/tmp"})


def test_containers_are_not_root_and_ask_when_it_is_ready() -> None:
    documents: list[Any] = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    pod = documents[0]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    container = pod["containers"][0]
    paths = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    assert pod["terminationGracePeriodSeconds"] > 30  # the server's own grace
    for name in ("Dockerfile", "Dockerfile.cuda"):
        text = (DEPLOY / name).read_text()
        assert re.search(r"^USER 10001$", text, re.M) and "/readyz" in text
