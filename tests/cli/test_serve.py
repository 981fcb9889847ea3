"""``gritlm serve`` as a process: its settings, what it says, and how it leaves."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.main import get_command

from gritlm import GritLM
from gritlm.cli.app import create_app
from gritlm.cli.commands import serve as command
from gritlm.cli.commands.serve import LimitOptions, ListenOptions
from gritlm.distribution import install_hint
from gritlm.serve.stores import Stores
from tests.cli.conftest import Start

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 60}


class Process:
    """A server in a process of its own."""

    def __init__(self, start: Start, *words: str) -> None:
        self.process = start(["serve", *words, "--port", "0"])
        self.lines: list[str] = []
        self._known = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self._known.wait(60), "".join(self.lines)
        self.url = re.search(r"http://\S+", "".join(self.lines))[0]

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line.decode())
            if "key is needed" in self.lines[-1]:
                self._known.set()
        self._known.set()

    def end(self, signal_number: int) -> int:
        self.process.send_signal(signal_number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(timeout=30)
        self._reader.join()
        return code

    @property
    def said(self) -> str:
        return "".join(self.lines)


def test_sigterm_under_load_loses_no_accepted_request(start: Start, model_folder: Path, lm: GritLM):
    served = Process(start, str(model_folder), "--dtype", "float32", "--max-num-seqs", "2")
    answers: list[httpx.Response] = []
    with httpx.Client(base_url=served.url, timeout=60) as client:

        def ask() -> None:
            answers.append(client.post("/v1/chat/completions", json=CHAT))

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 30
        while not running(client, 6):
            assert time.monotonic() < until, "six requests were never there together"
        assert served.end(signal.SIGTERM) == 0
        for thread in threads:
            thread.join()
    assert [answer.status_code for answer in answers] == [200] * 6
    wanted = lm.chat("Hello", max_new_tokens=60)
    assert {answer.json()["choices"][0]["message"]["content"] for answer in answers} == {wanted}


def running(client: httpx.Client, count: int) -> bool:
    """Whether so many requests were taken."""
    text = client.get("/metrics").text
    found = re.findall(r"^gritlm_num_requests_(?:running|waiting) (\S+)$", text, re.MULTILINE)
    return sum(map(float, found)) >= count


def rerank(served: Process, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the results of a rerank request with the key of the test below."""
    headers = {"Authorization": "Bearer open sesame"}
    found = httpx.post(f"{served.url}/v1/rerank", headers=headers, json=body)
    return found.raise_for_status().json()["results"]


def test_settings_come_from_the_environment_and_ctrl_c_ends_it(
    start: Start, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in {
        "MODEL": str(model_folder),
        "DTYPE": "float32",
        "PORT": "1",
        "API_KEY": "one two\nopen sesame\n",
        "SERVED_MODEL_NAME": "my model",
        "MAX_MODEL_LEN": "100",
        "LOG_FORMAT": "json",
        "RERANK": "likelihood",
        "STORE": str(tmp_path / "store"),
    }.items():
        monkeypatch.setenv(f"GRITLM_{name}", value)
    served = Process(start)
    assert httpx.get(f"{served.url}/v1/models").status_code == 401
    models = httpx.get(
        f"{served.url}/v1/models", headers={"Authorization": "Bearer open sesame"}
    ).json()
    names = [(each["id"], each["max_model_len"]) for each in models["data"]]
    assert names == [("my model", 100), ("my model:rag", 100)]
    assert models["data"][0]["documents"] is True
    body = {"query": "a", "documents": ["b", "a"]}
    relevances = [
        [each["relevance_score"] for each in rerank(served, body | method)]
        for method in ({}, {"method": "likelihood"}, {"method": "embed"})
    ]
    assert relevances[0] == pytest.approx(relevances[1])
    assert relevances[0] != pytest.approx(relevances[2])
    assert served.end(signal.SIGINT) == 0
    assert "serves my model at http://127.0.0.1:" in served.said
    assert "float32 on cpu" in served.said
    assert "8 concurrent sequences of 100 tokens" in served.said
    logged = [json.loads(line) for line in served.lines if line.startswith("{")]
    assert any(line.get("path") == "/v1/models" and line["status"] == 401 for line in logged)
    assert "one" not in "".join(line for line in served.lines if line.startswith("{"))


def test_stores_and_a_key_file_come_from_the_environment(
    start: Start, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    key = "a-key-of-ann-and-of-ann-alone"
    entry = {"name": "ann", "key": key, "stores": ["law"], "rights": ["search"]}
    keys = tmp_path / "keys.jsonl"
    keys.write_text(json.dumps(entry), encoding="utf-8")
    keys.chmod(0o644)
    monkeypatch.setenv("GRITLM_STORE", f"law={tmp_path}/the law\nfood={tmp_path}/food\n")
    monkeypatch.setenv("GRITLM_KEY_FILE", str(keys))
    served = Process(start, str(model_folder), "--dtype", "float32", "--served-model-name", "m")
    assert httpx.get(f"{served.url}/v1/models").status_code == 401
    with httpx.Client(base_url=served.url, headers={"x-api-key": key}) as ann:
        assert [each["id"] for each in ann.get("/v1/rag/stores").json()["data"]] == ["law"]
        assert ann.post("/v1/embeddings", json={"input": "a"}).status_code == 403
    assert served.end(signal.SIGTERM) == 0
    assert "documents: law, food; a key is needed" in served.said
    assert f"other users can read the key file {keys}" in served.said
    assert key not in served.said
    assert (tmp_path / "the law").is_dir()


@pytest.mark.parametrize("name", ["API_KEY", "PORT", "STORE", "ALLOWED_HOST", "OPEN_METRICS"])
@pytest.mark.parametrize("value", ["", " \n"])
def test_a_variable_that_is_set_but_empty_is_refused(
    error_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    monkeypatch.setenv(f"GRITLM_{name}", value)
    told = error_of("serve", "no/such/model")
    assert f"GRITLM_{name}" in told
    assert value == " \n" or "is set but empty" in told


def test_each_flag_is_an_environment_variable_too():
    found = get_command(create_app()).commands["serve"].params
    own = {"verbose", "debug", "quiet", "help"}
    flags = {parameter.name: parameter.envvar for parameter in found if parameter.name not in own}
    assert flags == {name: f"GRITLM_{name.upper()}" for name in flags}
    assert {
        "host",
        "port",
        "api_key",
        "served_model_name",
        "max_model_len",
        "dtype",
        "max_num_seqs",
        "max_num_batched_tokens",
        "store",
        "model",
    } <= flags.keys()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--port", "70000"], "65535"),
        (["--max-num-seqs", "0"], "max-num-seqs"),
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1"),
        (["--api-key", ""], "API key"),
        (["--store", "a=x", "--store", "b=./x"], "the stores 'a' and 'b' are both in"),
        (["--store", "x", "--store", "y"], "two stores have the name 'default'"),
        (["--store", "a="], "--store a=: the folder is missing"),
        (["--key-file", "no/such/file"], "no/such/file: the key file cannot be read"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_a_model_is_loaded(
    error_of: Callable[..., str], words: list[str], told: str
):
    assert told in error_of("serve", "no/such/model", *words)


def test_a_missing_library_names_the_extra(
    error_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    from gritlm.serve import needs

    monkeypatch.setattr(needs, "LIBRARIES", ("fastapi", "no_such_library"))
    assert "no_such_library" in error_of("serve")
    assert install_hint("serve") in error_of("serve")


def test_an_address_that_others_reach_without_a_key_warns(capsys: pytest.CaptureFixture[str]):
    class Service:
        stores, models, budget = Stores({}), {"m": None}, 512
        scheduler = type(
            "", (), {"max_model_len": 9, "stats": lambda _: type("", (), {"slots": 1})}
        )()
        model = type(
            "",
            (),
            {
                "source": "m",
                "dtype": "float32",
                "device": "cpu",
                "dtype_reason": "r",
                "quantization": None,
                "num_parameters": lambda _: 1,
            },
        )()

        def __init__(self, listen: ListenOptions) -> None:
            self.settings = command._settings(None, listen, LimitOptions())

    command._tell(Service(ListenOptions(host="0.0.0.0")), "http://0.0.0.0:8000")
    assert "warning: 0.0.0.0 can be reached" in capsys.readouterr().err
    command._tell(Service(ListenOptions(host="0.0.0.0", api_key=["key"])), "http://0.0.0.0:8000")
    command._tell(Service(ListenOptions()), "http://127.0.0.1:8000")
    assert "warning" not in capsys.readouterr().err


def test_a_server_of_two_adapters_says_their_names_and_answers_as_each(
    start: Start, model_folder: Path, make_adapter: Callable[..., Path], tmp_path: Path
):
    folders = {"law": make_adapter(model_folder, tmp_path / "law")}
    folders["tax"] = make_adapter(model_folder, tmp_path / "tax", r=2, lora_alpha=6)
    words = [word for name, path in folders.items() for word in ("--adapter", f"{name}={path}")]
    served = Process(start, str(model_folder), *words, "--dtype", "float32", "--device", "cpu")
    assert f"serves {model_folder.name}, law, tax at" in served.said
    with httpx.Client(base_url=served.url, timeout=60) as client:
        for name, folder in folders.items():
            answer = client.post("/v1/chat/completions", json=CHAT | {"model": name}).json()
            alone = GritLM(model_folder, adapter=folder, dtype="float32", device="cpu")
            expected = alone.chat("Hello", max_new_tokens=60)
            assert answer["choices"][0]["message"]["content"] == expected
    assert served.end(signal.SIGTERM) == 0
