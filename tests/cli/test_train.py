"""``gritlm train``: real runs of a tiny model, and what is said when one cannot be."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from gritlm import GritLM
from gritlm.cli.commands import train
from gritlm.distribution import install_hint
from tests.cli.conftest import Start
from tests.train import runs

RUN = """
[model]
base = "{model}"

[data]
query_max_len = 40
passage_max_len = 48
generative_max_len = 96

[[data.embedding]]
path = "{folder}/pairs.jsonl"

[[data.generative]]
path = "{folder}/chats.jsonl"

[training]
output_dir = "{folder}/out"
max_steps = 2
per_device_train_batch_size = 4
per_device_generative_bs = 2
bf16 = false
device = "cpu"
"""


@pytest.fixture
def file(tmp_path: Path, model_folder: Path) -> Path:
    """Settings of a run of two steps, and its data beside it."""
    runs.write(tmp_path / "pairs.jsonl", runs.PAIRS)
    runs.write(tmp_path / "chats.jsonl", runs.CHATS)
    path = tmp_path / "run.toml"
    path.write_text(RUN.format(model=model_folder, folder=tmp_path))
    return path


def steps(out: Path) -> list[int]:
    lines = (out / "metrics.jsonl").read_text().splitlines() if out.is_dir() else []
    return [json.loads(line)["step"] for line in lines]


def test_a_run_prints_its_folder_which_loads_and_is_not_written_over(run, error_of, file: Path):
    out = file.with_name("out")
    result = run("train", str(file))
    assert (result.exit_code, result.stdout) == (0, f"{out}\n")
    said = result.stderr.splitlines()
    assert said[:2] == ["embedding: pairs, 40 rows", "generative: chats, 30 rows"]
    assert said[-1] == f"trained: {out}"
    model = GritLM(out, dtype="float32", device="cpu")
    assert model.encode(["cats"]).shape == (1, 48)
    assert isinstance(model.chat([{"role": "user", "content": "say"}], max_new_tokens=2), str)

    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    message = error_of("train", str(file))
    assert message.startswith(f"output_dir = {out} already holds a run")
    assert "resume_from_checkpoint" in message
    assert "overwrite_output_dir" in message
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


@pytest.mark.parametrize(("number", "lora"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_a_signal_leaves_a_checkpoint_to_go_on_from(start: Start, run, file: Path, number, lora):
    out = file.with_name("out")
    words = ("--set", "training.max_steps=40", "--set", f"model.lora={str(lora).lower()}")
    process = start(("train", str(file), *words))
    _wait_for_a_step(process, out)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (130, b"")
    last = steps(out)[-1]
    (checkpoint,) = out.glob("checkpoint-*")
    assert checkpoint.name == f"checkpoint-{last:06d}"
    *said, stopped = stderr.decode().splitlines()
    known = ("embedding: ", "generative: ", "40 steps, ", "step ")  # nothing of other libraries
    assert [line for line in said if not line.startswith(known)] == []
    assert stopped.startswith(f"gritlm: stopped: after step {last}; to go on, give the same")

    resume = "training.resume_from_checkpoint=true"
    assert f"--set {resume}" in stopped
    result = run("train", str(file), *words, "--set", resume)
    assert (result.exit_code, result.stdout) == (0, f"{out}\n")
    assert steps(out) == list(range(1, 41))


def _wait_for_a_step(process: subprocess.Popen[bytes], out: Path) -> None:
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if (out / "metrics.jsonl").is_file() and steps(out):
            return
        time.sleep(0.02)
    raise AssertionError(f"no step was made: {process.communicate(timeout=5)}")


def test_a_wrong_key_names_the_right_one(error_of, file: Path):
    file.write_text(file.read_text().replace("output_dir", "ouput_dir"))
    expected = f"{file}: [training]: unknown key 'ouput_dir'; did you mean 'output_dir'?"
    assert error_of("train", str(file)) == expected


def test_a_wrong_key_of_the_command_line_names_the_right_one(error_of, file: Path):
    message = error_of("train", str(file), "--set", "loss.temprature=1")
    assert "--set loss.temprature=1" in message
    assert "did you mean 'temperature'?" in message


def test_a_missing_file_is_named(error_of, tmp_path: Path):
    path = tmp_path / "none.toml"
    assert error_of("train", str(path)) == f"{path} cannot be read: No such file or directory"


def test_a_missing_extra_is_named(error_of, file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train, "find_spec", lambda name: None)
    assert install_hint("train") in error_of("train", str(file))


def test_missing_data_is_named_with_what_is_near(error_of, file: Path):
    file.write_text(file.read_text().replace("pairs.jsonl", "piars.jsonl"))
    message = error_of("train", str(file))
    assert message == f"{file.parent}/piars.jsonl does not exist; did you mean 'pairs.jsonl'?"
    assert not file.with_name("out").exists()


def test_a_broken_line_is_named(error_of, file: Path):
    with file.with_name("chats.jsonl").open("a") as chats:
        chats.write('{"text": ["Who reads?", "A model."]\n')
    message = error_of("train", str(file))
    assert message.startswith(f"{file.parent}/chats.jsonl:31: broken JSON (")
    assert not file.with_name("out").exists()


def test_an_instruction_that_leaves_no_room_is_an_error(error_of, file: Path):
    message = error_of("train", str(file), "--set", "data.query_max_len=9")
    assert "query_max_len = 9: " in message
    assert "no room" in message


def test_a_source_smaller_than_a_batch_is_named(error_of, file: Path):
    words = ("--set", "training.per_device_train_batch_size=41")
    message = error_of("train", str(file), *words)
    assert message.startswith("pairs has 40 rows, a batch takes 41 of one source")
    assert not file.with_name("out").exists()


def test_a_teacher_that_cannot_be_loaded_is_named(error_of, file: Path):
    teacher = file.with_name("nobody")
    message = error_of("train", str(file), "--set", f"loss.teacher={teacher}")
    assert message.startswith(f"loss.teacher = '{teacher}' cannot be loaded: ")


def test_bad_rows_are_skipped_on_demand(run, file: Path):
    with (file.parent / "pairs.jsonl").open("a") as pairs:
        pairs.write("{broken\n")
    result = run("train", str(file), "--skip-bad")
    assert result.exit_code == 0
    assert f"skipped {file.parent}/pairs.jsonl:41: broken JSON" in result.stderr
