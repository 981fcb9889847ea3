"""Settings from a file and the command line, and what wrong ones are told."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from gritlm import config
from gritlm.errors import InputError


@dataclass(frozen=True)
class Loss:
    temperature: float = 0.02
    kind: Literal["mixed", "token"] = "mixed"

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise InputError(f"temperature={self.temperature}; expected a number above 0")


@dataclass(frozen=True)
class Source:
    path: Path
    weight: float = 1.0
    instruction: str | None = None


@dataclass(frozen=True)
class Lora:
    rank: int = 16


@dataclass(frozen=True)
class Data:
    output: str
    sources: tuple[Source, ...] = ()
    caps: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    data: Data
    loss: Loss = Loss()
    lora: Lora | None = None
    dims: list[int] | None = None
    packing: bool = False
    report: bool | str = False


LEAST = '[data]\noutput = "out"\n'


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def reading(text: str, *overrides: str) -> Run:
        Path("run.toml").write_text(text, encoding="utf-8")
        return config.read("run.toml", Run, overrides)

    return reading


def test_a_file_becomes_dataclasses(read):
    run = read(
        "dims = [256, 64]\npacking = true\n[data]\noutput = 'out'\ncaps = {nq = 5}\n"
        "[[data.sources]]\npath = 'a.jsonl'\nweight = 2\n[loss]\ntemperature = 1\n[lora]\n"
    )
    assert run == Run(
        data=Data("out", (Source(Path("a.jsonl"), 2.0),), {"nq": 5}),
        loss=Loss(temperature=1.0),
        lora=Lora(),
        dims=[256, 64],
        packing=True,
    )
    assert isinstance(run.loss.temperature, float)
    assert isinstance(run.data.sources[0].path, Path)


def test_what_is_left_out_has_its_default(read):
    assert read(LEAST) == Run(data=Data("out"))


def test_settings_cannot_be_changed(read):
    with pytest.raises(FrozenInstanceError):
        read(LEAST).packing = True


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("loss.temperature=0.1", lambda run: run.loss.temperature == 0.1),
        ("loss.temperature=1e-1", lambda run: run.loss.temperature == 0.1),
        ("loss.kind=token", lambda run: run.loss.kind == "token"),
        ("loss.kind='token'", lambda run: run.loss.kind == "token"),
        ("data.output=other/place", lambda run: run.data.output == "other/place"),
        ("data.output=2026", lambda run: run.data.output == "2026"),
        ("data.output=a=b", lambda run: run.data.output == "a=b"),
        ("lora.rank=4", lambda run: run.lora == Lora(4)),
        ("packing=true", lambda run: run.packing is True),
        ("report=true", lambda run: run.report is True),
        ("report=wandb", lambda run: run.report == "wandb"),
        ("dims=[8, 4]", lambda run: run.dims == [8, 4]),
        ("data.sources=[{path='a'}]", lambda run: run.data.sources == (Source(Path("a")),)),
    ],
)
def test_an_override_wins_over_the_file(read, override, found):
    assert found(read(LEAST + "[loss]\ntemperature = 0.5\n", override))


def test_the_last_override_wins(read):
    assert read(LEAST, "lora.rank=4", "lora.rank=8").lora == Lora(8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[loss]\ntemprature = 1",
            "run.toml: [loss]: unknown key 'temprature'; did you mean 'temperature'?",
        ),
        ("[los]\nkind = 'token'", "run.toml: unknown section 'los'; did you mean 'loss'?"),
        (
            "[[data.sources]]\npath = 'a'\nwait = 1",
            "run.toml: [data.sources]: unknown key 'wait'; did you mean 'weight'?",
        ),
        ("[[data.sources]]", "run.toml: [data.sources]: 'path' is missing; expected a path"),
        ("[loss]\ntemperature = 'hot'", "run.toml: [loss]: temperature = 'hot'; expected a number"),
        ("[loss]\ntemperature = true", "run.toml: [loss]: temperature = true; expected a number"),
        ("[loss]\nkind = 'all'", "run.toml: [loss]: kind = 'all'; expected one of mixed, token"),
        ("[loss]\ntemperature = 0", "run.toml: [loss]: temperature=0.0; expected a number above 0"),
        ("[lora]\nrank = 1.5", "run.toml: [lora]: rank = 1.5; expected a whole number"),
        ("[lora]\nrank = true", "run.toml: [lora]: rank = true; expected a whole number"),
        ("[data.caps]\nnq = 'many'", "run.toml: [data.caps]: nq = 'many'; expected a whole number"),
    ],
)
def test_a_wrong_setting_is_told_what_came_and_what_was_expected(read, text, message):
    with pytest.raises(InputError) as told:
        read(f"{LEAST}{text}\n")
    assert str(told.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "run.toml: 'data' is missing; expected a section"),
        ("[data]", "run.toml: [data]: 'output' is missing; expected a string"),
        ("data = 3", "run.toml: data = 3; expected a section"),
        (f"lora = 16\n{LEAST}", "run.toml: lora = 16; expected a section"),
        (f"dims = 64\n{LEAST}", "run.toml: dims = 64; expected a list"),
        (f"dims = ['a']\n{LEAST}", "run.toml: dims = 'a'; expected a whole number"),
        (f"report = 1\n{LEAST}", "run.toml: report = 1; expected true or false or a string"),
    ],
)
def test_a_wrong_file_is_told_what_came_and_what_was_expected(read, text, message):
    with pytest.raises(InputError) as told:
        read(text)
    assert str(told.value) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "loss.temprature=1",
            "--set loss.temprature=1: [loss]: unknown key 'temprature'; "
            "did you mean 'temperature'?",
        ),
        (
            "loss.temperature=hot",
            "--set loss.temperature=hot: [loss]: temperature = 'hot'; expected a number",
        ),
        (
            "los.kind=token",
            "--set los.kind=token: unknown section 'los'; did you mean 'loss'?",
        ),
        ("loss.temperature", "--set 'loss.temperature': expected section.key=value"),
        ("=3", "--set '=3': expected section.key=value"),
        ("data.output.x=3", "--set 'data.output.x=3': 'output' is a value, not a section"),
    ],
)
def test_a_wrong_override_is_told_apart_from_the_file(read, override, message):
    with pytest.raises(InputError) as told:
        read(LEAST, override)
    assert str(told.value) == message


def test_a_broken_file_is_told_the_line(read):
    with pytest.raises(InputError, match=r"run\.toml is not valid TOML: .*line 2"):
        read("[data]\noutput = \n")


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"nowhere\.toml cannot be read: No such file"):
        config.read("nowhere.toml", Run)
