"""Build the image, and check a container of it: answers, rights, volumes, and a drain on SIGTERM.

python deploy/check_image.py                                  # with docker
python deploy/check_image.py --tool podman --models ~/.cache/gritlm/models
python deploy/check_image.py --tool podman --debootstrap trixie    # without a registry of images

Each step prints a line with its seconds. The Python that runs it needs no packages.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KEY = "key-of-the-check"
USER = "10001"
DOCUMENT = {"id": "library", "text": "The library opens at nine. On Sundays it is closed."}
QUESTION = "When does the library open?"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DRAIN = 40  # seconds that a container has to end, as in compose.yml


class CheckError(Exception):
    """Reason why the image is not right, in one line."""


@dataclass
class Image:
    """Image, the tool that builds and runs it, and the options of both.

    Attributes:
        tool: docker or podman, with its global options.
        name: name of the image.
        build_options: options of ``build``.
        run_options: options of ``run``.
        models: folder with models that is mounted; None for a volume, into which the server
            downloads the default model.
        port: port on this machine.
        has_host_network: whether the container shares the network of this machine.
        container: name of the container, with which the names of its volumes begin; of this run
            alone, because the check removes them.
    """

    tool: list[str]
    name: str = "gritlm-check"
    build_options: list[str] = field(default_factory=list)
    run_options: list[str] = field(default_factory=list)
    models: Path | None = None
    port: int = 8000
    has_host_network: bool = False
    container: str = field(default_factory=lambda: f"gritlm-check-{secrets.token_hex(4)}")

    def call(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of the tool."""
        command = [*self.tool, *words]
        if shutil.which(command[0]) is None:
            raise CheckError(f"{command[0]} is not installed; name another tool with --tool")
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if check and done.returncode:
            last = " | ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
            raise CheckError(f"{shlex.join(command[:4])} ... ended with {done.returncode}: {last}")
        return done

    def build(self) -> str:
        """Build the image, and return its size."""
        # Only this format of podman keeps the health check.
        form = ["--format", "docker"] if Path(self.tool[0]).name == "podman" else []
        self.call("build", *form, *self.build_options, "-t", self.name, ".")
        size = self.call("image", "inspect", "--format", "{{.Size}}", self.name).stdout
        return f"{int(size) / 1e6:.0f} MB"

    def start(self) -> str:
        """Start a container, and return after the server is ready."""
        network = ["-p", f"127.0.0.1:{self.port}:8000"]
        if self.has_host_network:
            network = ["--network", "host", "-e", "GRITLM_HOST=127.0.0.1"]
            network += ["-e", f"GRITLM_PORT={self.port}"]
        volumes = ["-v", f"{self.models or self.container + '-models'}:/models"]
        volumes += ["-v", f"{self.container}-store:/store"]
        options = [*network, *volumes, *self.run_options, "-e", f"GRITLM_API_KEY={KEY}"]
        self.call("run", "-d", "--name", self.container, *options, self.name)
        for _ in range(1200):
            if self.state("Running") != "true":
                logs = self.call("logs", self.container, check=False)
                raise CheckError(f"the container ended: {(logs.stderr or logs.stdout)[-400:]}")
            try:
                if self.ask("GET", "/health", key=None)[0] == 200:
                    return "ready"
            except OSError:
                pass
            time.sleep(0.5)
        raise CheckError("the server was not ready within 10 minutes")

    def state(self, name: str) -> str:
        """Return a value of the container's state."""
        value = f"{{{{.State.{name}}}}}"
        return self.call("inspect", "--format", value, self.container).stdout.strip()

    def remove(self) -> None:
        """Remove the container, if there is one."""
        self.call("rm", "-f", self.container, check=False)

    def remove_volumes(self) -> None:
        """Remove the volumes of the check."""
        for volume in ("models", "store"):
            self.call("volume", "rm", "-f", f"{self.container}-{volume}", check=False)

    @contextmanager
    def response(
        self, method: str, path: str, body: Any = None, *, key: str | None = KEY
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request, and yield the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, headers)
            yield connection.getresponse()
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Any = None, *, key: str | None = KEY) -> Any:
        """Return status and JSON of a response."""
        with self.response(method, path, body, key=key) as response:
            return response.status, json.loads(response.read() or b"null")


def make_base(image: Image, suite: str) -> str:
    """Make a base image of Debian and its Python, and return its name.

    Args:
        image: the image that is checked, for the tool.
        suite: release of Debian, for example trixie; its Python is 3.11 or newer.
    """
    if shutil.which("debootstrap") is None:
        raise CheckError("debootstrap is not installed; apt install debootstrap")
    name = f"localhost/debian-python:{suite}"
    with tempfile.TemporaryDirectory() as folder:
        packages = "--include=ca-certificates,python3,python3-venv"
        command = ["debootstrap", "--variant=minbase", packages, suite, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CheckError(f"debootstrap: {done.stdout.strip().splitlines()[-1]}")
        Path(folder, "usr/bin/python").symlink_to("python3")
        packed = Path(folder).with_suffix(".tar")
        try:
            subprocess.run(["tar", "-C", folder, "-cf", str(packed), "."], check=True)
            image.call("import", "--change", f"ENV {_PATH}", str(packed), name)
        finally:
            packed.unlink(missing_ok=True)
    image.build_options += ["--build-arg", f"BASE={name}"]
    return name


def check_keys(image: Image) -> str:
    """Check that a request without a key is refused."""
    status, _ = image.ask("GET", "/v1/models", key=None)
    expect(status == 401, f"/v1/models without a key: {status}, expected 401")
    return "401 without a key"


def check_answers(image: Image) -> str:
    """Check an embedding, a chat, a document and an answer from it."""
    model = model_of(image)
    status, found = image.ask("POST", "/v1/embeddings", {"model": model, "input": "A text"})
    expect(status == 200, f"/v1/embeddings: {status} {found}")
    messages = [{"role": "user", "content": "Name a planet."}]
    body = {"model": model, "messages": messages, "max_tokens": 8}
    status, chat = image.ask("POST", "/v1/chat/completions", body)
    expect(status == 200, f"/v1/chat/completions: {status} {chat}")
    status, added = image.ask("POST", "/v1/rag/documents", {"documents": [DOCUMENT]})
    expect(status == 200, f"/v1/rag/documents: {status} {added}")
    dimensions = len(found["data"][0]["embedding"])
    return f"{dimensions} dimensions; {chat['choices'][0]['message']['content']!r}; {answer(image)}"


def model_of(image: Image) -> str:
    """Return the name of the model that is served."""
    _, models = image.ask("GET", "/v1/models")
    name: str = models["data"][0]["id"]
    return name


def answer(image: Image) -> str:
    """Return the answer from the document."""
    status, found = image.ask("POST", "/v1/rag/answer", {"question": QUESTION})
    expect(status == 200, f"/v1/rag/answer: {status} {found}")
    text: str = found["answer"]
    expect("nine" in text.lower(), f"{QUESTION!r} was answered with {text!r}, expected nine")
    return repr(text)


def check_rights(image: Image) -> str:
    """Check the user of the server, its capabilities, and that it cannot change the program."""
    user = image.call("exec", image.container, "id", "-u").stdout.strip()
    expect(user == USER, f"the user is {user}, expected {USER}")
    status = image.call("exec", image.container, "cat", "/proc/1/status").stdout
    capabilities = dict(re.findall(r"^(Uid|CapEff):\s+(\w+)", status, re.M))
    expect(capabilities["Uid"] == USER, f"the server has user {capabilities['Uid']}")
    expect(int(capabilities["CapEff"], 16) == 0, f"capabilities {capabilities['CapEff']}")
    written = image.call("exec", image.container, "touch", "/opt/gritlm/file", check=False)
    expect(written.returncode != 0, "the server may write to /opt/gritlm")
    return f"user {user}, no capabilities, the program is read-only"


def check_health(image: Image) -> str:
    """Run the health check of the Dockerfile in the container."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (command,) = re.findall(r"^HEALTHCHECK .*?CMD (\[.*?\])$", text, re.M | re.S)
    image.call("exec", image.container, *json.loads(command))
    return "passes"


def check_drain(image: Image) -> str:
    """Stop the container while a chat is streamed: the chat ends, then the server with 0."""
    events: list[str] = []
    begun = threading.Event()
    model = model_of(image)

    def read() -> None:
        messages = [{"role": "user", "content": "Count from one to five hundred in words."}]
        body = {"model": model, "messages": messages, "max_tokens": 100, "ignore_eos": True}
        body["stream"] = True
        with image.response("POST", "/v1/chat/completions", body) as stream:
            for line in stream:
                events.append(line.decode().strip())
                begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    expect(begun.wait(60), "the stream did not begin within 60 s")
    before = len(events)
    image.call("stop", "-t", str(_DRAIN), image.container)
    reader.join(timeout=10)
    lines = [line for line in events if line]
    expect(lines[-1] == "data: [DONE]", f"the stream ended with {lines[-1]!r}")
    expect(len(events) > before + 2, "the stream had ended before the signal; ask for more tokens")
    code = image.state("ExitCode")
    expect(code == "0", f"the server ended with {code}, expected 0")
    return f"{(len(events) - before) // 2} of {len(events) // 2} events after SIGTERM, exit code 0"


def check_volumes(image: Image) -> str:
    """Replace the container, and ask for the document again."""
    image.remove()
    image.start()
    return f"a new container answers {answer(image)}"


def expect(condition: object, text: str) -> None:
    """Raise an error if a condition is false."""
    if not condition:
        raise CheckError(text)


def step(name: str, work: Callable[[], str]) -> None:
    """Run a step, and print its line."""
    start = time.monotonic()
    try:
        text = work()
    except (CheckError, OSError, KeyError, ValueError, http.client.HTTPException) as error:
        reason = error if isinstance(error, CheckError) else repr(error)
        raise SystemExit(f"{name:<10} FAILED: {reason}") from None
    print(f"{name:<10} {time.monotonic() - start:7.1f} s  {text}", flush=True)


def parsed() -> tuple[Image, argparse.Namespace]:
    """Return the image and the arguments of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--tool", default="docker", help="docker or podman, with global options")
    parser.add_argument("--image", default="gritlm-check", help="name of the image")
    parser.add_argument("--no-build", action="store_true", help="check an image that is there")
    parser.add_argument("--debootstrap", metavar="SUITE", help="base image made from Debian")
    parser.add_argument("--models", type=Path, help="folder that is mounted at /models")
    parser.add_argument("--host-network", action="store_true", help="no network of its own")
    parser.add_argument("--build-option", action="append", default=[], help="may be repeated")
    parser.add_argument("--run-option", action="append", default=[], help="may be repeated")
    given = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    models = None if given.models is None else given.models.expanduser().resolve()
    image = Image(
        shlex.split(given.tool),
        name=given.image,
        build_options=[word for each in given.build_option for word in shlex.split(each)],
        run_options=[word for each in given.run_option for word in shlex.split(each)],
        models=models,
        port=port,
        has_host_network=given.host_network,
    )
    return image, given


def main() -> None:
    image, given = parsed()
    if given.debootstrap:
        step("base", lambda: make_base(image, given.debootstrap))
    if not given.no_build:
        step("build", image.build)
    try:
        step("start", image.start)
        step("health", lambda: check_health(image))
        step("keys", lambda: check_keys(image))
        step("answers", lambda: check_answers(image))
        step("rights", lambda: check_rights(image))
        step("drain", lambda: check_drain(image))
        step("volumes", lambda: check_volumes(image))
    finally:
        with suppress(CheckError):  # a tool that is not installed, which a step has reported
            image.remove()
            image.remove_volumes()


if __name__ == "__main__":
    main()
