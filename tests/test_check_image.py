"""The check of the image, with containers that are processes of this machine."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "deploy" / "check_image.py"
TOOL = Path(__file__).with_name("container_tool.py")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("check_image", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["check_image"] = module
    specification.loader.exec_module(module)
    del sys.modules["check_image"]
    return module


@pytest.fixture
def tool(tmp_path: Path) -> list[str]:
    return [sys.executable, str(TOOL), str(tmp_path)]


def check(tool: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--tool", shlex.join(tool), "--host-network", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_an_image_is_built_asked_drained_and_replaced(tool, default_folder):
    done = check(tool)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert list(lines) == [
        "build",
        "start",
        "health",
        "keys",
        "answers",
        "rights",
        "drain",
        "volumes",
    ]
    assert lines["build"].endswith("2 MB")
    assert "576 dimensions" in lines["answers"]
    assert lines["drain"].endswith("exit code 0")
    assert "nine" in lines["volumes"]


def test_a_build_that_fails_ends_with_one_line(tool):
    done = check(tool, "--build-option", "fail")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("build")
    assert line.endswith("step 1 | no space left on device")


@pytest.mark.parametrize("models", [True, False])
def test_nothing_that_an_earlier_container_of_the_image_has_is_used_or_removed(
    tool, tmp_path, models
):
    mounted = ["--models", str(tmp_path)] if models else []
    done = check(tool, "--no-build", "--image", "gritlm", *mounted, "--run-option", "fail")
    assert done.returncode == 1
    assert done.stderr.startswith("start")
    run, remove, *volumes = (tmp_path / "commands").read_text().splitlines()
    (name,) = re.findall(r"--name (\S+)", run)
    assert re.fullmatch(r"gritlm-check-[0-9a-f]{8}", name)
    assert f"-v {tmp_path if models else name + '-models'}:/models -v {name}-store:/store" in run
    assert run.endswith(" gritlm")
    assert remove == f"rm -f {name}"
    assert volumes == [f"volume rm -f {name}-models", f"volume rm -f {name}-store"]


def test_each_run_has_names_of_its_own(script, tool):
    assert script.Image(tool).container != script.Image(tool).container


def test_a_reply_that_is_no_json_ends_with_one_line(script):
    with pytest.raises(SystemExit, match=r"^health +FAILED: JSONDecodeError"):
        script.step("health", lambda: json.loads("<html>"))


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("CONTAINER_USER", "0", "the user is 0, expected 10001"),
        ("CONTAINER_CAPABILITIES", "00000000a80425fb", "capabilities 00000000a80425fb"),
    ],
)
def test_a_server_with_rights_is_refused(script, tool, monkeypatch, name, value, problem):
    image = script.Image(tool)
    assert script.check_rights(image) == "user 10001, no capabilities, the program is read-only"
    monkeypatch.setenv(name, value)
    with pytest.raises(script.CheckError, match=problem):
        script.check_rights(image)


def test_the_check_knows_the_user_of_the_image(script):
    assert f"\nUSER {script.USER}\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("words", [[], ["--no-build"]])
def test_a_tool_that_is_not_installed_is_named(words):
    done = check(["no-such-tool"], *words)
    assert done.returncode == 1
    assert done.stderr.endswith("no-such-tool is not installed; name another tool with --tool\n")
