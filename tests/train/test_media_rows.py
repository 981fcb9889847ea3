"""Rows with images and sounds in every form, and what a row that cannot be used gets."""

from __future__ import annotations

import base64
import io
import json
import random
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gritlm import GritLM
from gritlm.errors import InputError
from gritlm.lm.media.inputs import ImagePart, InputText, SoundPart
from gritlm.train.config import DataConfig, SourceConfig
from gritlm.train.data.collate import Collator
from gritlm.train.data.examples import ChatExample, EmbeddingExample, InstructedText
from gritlm.train.data.sources import Dataset, load
from tests.lm.media.checkpoints import smolvlm


def image_bytes(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def sound_file(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(np.arange(1600, dtype=np.int16).tobytes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "img").mkdir()
    for seed, name in enumerate(["a.png", "b.png", "c.png"]):
        (tmp_path / "img" / name).write_bytes(image_bytes(seed))
    sound_file(tmp_path / "s.wav")
    return tmp_path


def rows(folder: Path, *records: dict[str, Any], kind: Any = "embedding", **more: Any) -> Dataset:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return load(SourceConfig(str(path), **more), kind)


def pair(folder: Path, record: dict[str, Any], **more: Any) -> EmbeddingExample:
    (found,) = rows(folder, record, **more)
    assert isinstance(found, EmbeddingExample)
    return found


def chat(folder: Path, record: dict[str, Any]) -> ChatExample:
    (found,) = rows(folder, record, kind="generative")
    assert isinstance(found, ChatExample)
    return found


def shown(content: InstructedText | Any, folder: Path) -> Any:
    """The text of an input; of one with media its parts, with relative paths."""
    if isinstance(content, InstructedText):
        content = content.parts or content.text
    if isinstance(content, str):
        return content
    return [
        part.text
        if isinstance(part, InputText)
        else f"{type(part).__name__}:{part.source.relative_to(folder)}"
        for part in content
    ]


def sides(found: EmbeddingExample, folder: Path) -> tuple[Any, list[Any], list[Any]]:
    return (
        shown(found.query, folder),
        [shown(each, folder) for each in found.positives],
        [shown(each, folder) for each in found.negatives],
    )


A, B, C = (f"ImagePart:img/{name}.png" for name in "abc")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            {"anchor": {"image": "img/a.png"}, "positive": "a cat", "negative": "a dog"},
            ([A], ["a cat"], ["a dog"]),
        ),
        (
            {
                "query": ["Find it", {"text": "like this", "image": "img/a.png"}],
                "pos": [{"image": "img/b.png", "text": None}, "words"],
                "neg": [{"audio": "s.wav"}, {"text": "only text"}],
            },
            (["like this", A], [[B], "words"], [["SoundPart:s.wav"], "only text"]),
        ),
        (
            {"query": "q", "pos": {"image": ["img/a.png", "img/b.png"]}},
            ("q", [[A, B]], []),
        ),
        (
            {
                "qry": "<|image_1|>\nWhat is it?",
                "qry_image_path": "img/a.png",
                "pos_text": "a cat",
                "pos_image_path": "",
                "neg_text": "",
                "neg_image_path": "",
            },
            ([A, "What is it?"], ["a cat"], []),
        ),
        (
            {
                "qry": "Find a picture of a cat",
                "qry_image_path": None,
                "pos_text": ["<|image_1|>\nRepresent it"],
                "pos_image_path": ["img/b.png"],
                "neg_text": ["", "a text"],
                "neg_image_path": ["img/c.png", ""],
            },
            ("Find a picture of a cat", [[B, "Represent it"]], [[C], "a text"]),
        ),
        (
            {"qry_text": "q", "tgt_text": ["t"], "tgt_img_path": ["img/a.png"]},
            ("q", [[A, "t"]], []),
        ),
    ],
)
def test_embedding_rows_of_every_form(folder, record, expected):
    assert sides(pair(folder, record), folder) == expected


def test_an_instruction_of_a_row_with_an_image_is_kept(folder):
    found = pair(folder, {"query": ["Find it", {"image": "img/a.png"}], "pos": ["p"]})
    assert found.query.instruction == "Find it"


def test_bytes_in_a_row_are_read_as_an_image(folder):
    url = "data:image/png;base64," + base64.b64encode(image_bytes()).decode()
    (part,) = pair(folder, {"query": {"image": url}, "pos": ["p"]}).query.parts
    assert isinstance(part, ImagePart)
    assert part.source == image_bytes()


CONVERSATION = [
    {"from": "human", "value": "<image>\nWhat is it?"},
    {"from": "gpt", "value": "A cat."},
]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"image": "img/a.png", "conversations": CONVERSATION}, [A, "What is it?"]),
        (
            {
                "images": ["img/a.png", "img/b.png"],
                "messages": [
                    {"role": "user", "content": "Compare <image> with <image> please"},
                    {"role": "assistant", "content": "They differ."},
                ],
            },
            ["Compare ", A, " with ", B, " please"],
        ),
        (
            {
                "images": ["img/a.png"],
                "messages": [
                    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q"}]},
                    {"role": "assistant", "content": [{"type": "text", "text": "It is."}]},
                ],
            },
            [A, "Q"],
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "audio", "path": "s.wav", "text": None}, "What?"],
                    },
                    {"role": "assistant", "content": "A noise."},
                ]
            },
            ["SoundPart:s.wav", "What?"],
        ),
        (
            {"image": "img/c.png", "prompt": "<image>Q", "completion": "It is."},
            [C, "Q"],
        ),
        ({"conversations": CONVERSATION}, "<image>\nWhat is it?"),
    ],
)
def test_conversations_of_every_form(folder, record, expected):
    found = chat(folder, record)
    assert shown(found.messages[0]["content"], folder) == expected
    assert found.has_media == (not isinstance(expected, str))
    assert isinstance(found.messages[1]["content"], str)


@pytest.mark.parametrize(
    ("kind", "record", "message"),
    [
        ("embedding", {"query": {"image": "no.png"}, "pos": ["p"]}, "there is no file {}/no.png"),
        ("embedding", {"query": {"image": "img"}, "pos": ["p"]}, "there is no file {}/img"),
        (
            "embedding",
            {"query": {"image": "https://a.example/x.png"}, "pos": ["p"]},
            "is on the web (https://a.example/x.png), which is not allowed",
        ),
        ("embedding", {"query": {"video": "v.mp4"}, "pos": ["p"]}, "a video, which is not read"),
        (
            "embedding",
            {"query": {"text": "a", "smell": "b"}, "pos": ["p"]},
            "query is a dict with text, smell; expected text, image or audio",
        ),
        ("embedding", {"query": {"text": ""}, "pos": ["p"]}, "query is empty"),
        (
            "embedding",
            {"query": {"image": "img/a.png"}, "pos": ["p"], "neg": {"image": 3}},
            "the image of neg is int; expected a path",
        ),
        (
            "embedding",
            {"query": "q", "pos": {"image": "img/a.png"}, "neg": [{"image": "img/a.png"}]},
            "neg[0] is equal to a positive",
        ),
        (
            "embedding",
            {"qry": "<|image_1|> <|image_2|>", "qry_image_path": "img/a.png", "pos_text": "p"},
            "qry[0] has 2 placeholders of images, the row has 1 images",
        ),
        (
            "embedding",
            {"qry": "q", "pos_text": ["p", "o"], "pos_image_path": ["img/a.png"]},
            "pos has 2 texts and 1 images",
        ),
        ("embedding", {"qry": "q", "pos_text": ""}, "the row has no positive"),
        (
            "generative",
            {"image": ["img/a.png", "img/b.png"], "conversations": CONVERSATION},
            "the conversation has 1 places of images (<image>), the row lists 2",
        ),
        (
            "generative",
            {"image": "img/no.png", "conversations": CONVERSATION},
            "image[0]: there is no file {}/img/no.png",
        ),
        (
            "generative",
            {"messages": [{"role": "user", "content": [{"type": "smell"}]}]},
            "messages[0].content[0] has the type 'smell'; expected text, input_text, image",
        ),
        (
            "generative",
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image"}, "Q"]},
                    {"role": "assistant", "content": "A"},
                ]
            },
            "the conversation has 1 places of images (<image>), the row lists 0",
        ),
        (
            "generative",
            {
                "messages": [
                    {"role": "user", "content": "Draw"},
                    {"role": "assistant", "content": [{"type": "image", "path": "img/a.png"}]},
                ]
            },
            "messages[1].content[0] has type 'image'; expected 'text' (images and sounds are taken",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_line(folder, kind, record, message):
    good: dict[str, Any] = {"query": "q", "pos": ["p"]}
    if kind == "generative":
        good = {"conversations": CONVERSATION}
    with pytest.raises(InputError) as caught:
        rows(folder, good, record, kind=kind)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"{folder}/rows.jsonl:2: ")
    assert message.format(folder) in text


def test_paths_are_relative_to_the_folder_that_is_set(folder):
    found = pair(
        folder, {"query": {"image": "a.png"}, "pos": ["p"]}, media_folder=str(folder / "img")
    )
    assert shown(found.query, folder) == [A]


def test_addresses_are_taken_when_allowed_and_not_fetched_yet(folder):
    record = {"query": {"image": "https://a.example/x.png"}, "pos": ["p"]}
    (part,) = pair(folder, record, media_web=True).query.parts
    assert isinstance(part, ImagePart)
    assert part.source.url == "https://a.example/x.png"


def test_rows_with_other_images_are_no_duplicates(folder):
    def record(name: str) -> dict[str, Any]:
        return {"query": {"text": "what", "image": f"img/{name}.png"}, "pos": ["p"]}

    found = rows(folder, record("a"), record("b"), record("a"))
    assert (len(found), found.duplicates) == (2, 1)
    listed = [{"image": f"img/{n}.png", "conversations": CONVERSATION} for n in "aba"]
    assert rows(folder, *listed, kind="generative").duplicates == 1


def test_images_of_a_table_are_taken_as_files(folder, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    columns = {
        "anchor": [str(folder / "img" / "a.png")],
        "positive": ["a cat"],
        "negative": [[str(folder / "img" / "b.png"), str(folder / "img" / "c.png")]],
    }
    features = datasets.Features(
        anchor=datasets.Image(),
        positive=datasets.Value("string"),
        negative=datasets.List(datasets.Image()),
    )
    made = datasets.Dataset.from_dict(columns, features)
    made.save_to_disk(folder / "saved")  # embeds the files
    (folder / "img").rename(folder / "gone")
    (found,) = load(SourceConfig(str(folder / "saved")), "embedding")
    assert isinstance(found, EmbeddingExample)
    for each in (found.query, *found.negatives):
        (part,) = each.parts
        assert isinstance(part, ImagePart)
        assert isinstance(part.source, bytes)


def test_a_sound_is_a_sound(folder):
    (part,) = pair(folder, {"query": {"audio": "s.wav"}, "pos": ["p"]}).query.parts
    assert isinstance(part, SoundPart)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> GritLM:
    return GritLM(smolvlm(tmp_path_factory.mktemp("smolvlm")), dtype="float32", device="cpu")


def collator(model: GritLM, *, senses: bool = True, **data: Any) -> Collator:
    found = model.senses if senses else None
    return Collator(model.encoder.tokens, model.settings, DataConfig(**data), senses=found)


def refusal(folder: Path, record: dict[str, Any], made: Collator, kind: Any = "embedding") -> str:
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load(SourceConfig(str(path)), kind, check=made.require_usable)
    text = str(caught.value)
    assert text.startswith(f"{path}:1: ")
    assert "\n" not in text
    return text


SEEN = {"query": "q", "pos": [{"image": "img/a.png"}]}


def test_a_broken_image_ends_the_run_before_it_starts(folder, seeing):
    (folder / "img" / "a.png").write_bytes(image_bytes()[:200])
    assert "the image of pos[0] is broken" in refusal(folder, SEEN, collator(seeing))
    listed = {"image": "img/a.png", "conversations": CONVERSATION}
    assert "the image of image[0] is broken" in refusal(
        folder, listed, collator(seeing), "generative"
    )
    check = collator(seeing, check_media=False).require_usable
    assert len(load(SourceConfig(str(folder / "rows.jsonl")), "generative", check=check)) == 1


def test_a_model_that_reads_text_only_refuses_an_image(folder, seeing):
    for check_media in (True, False):
        made = collator(seeing, senses=False, check_media=check_media)
        assert "this model reads text only, no image" in refusal(folder, SEEN, made)


def test_a_model_that_sees_refuses_a_sound(folder, seeing):
    record = {"query": {"audio": "s.wav"}, "pos": ["p"]}
    text = refusal(folder, record, collator(seeing))
    assert "the sound of query is a sound, this model reads text and image" in text


def test_an_image_with_more_tokens_than_the_limit_is_refused(folder, seeing):
    text = refusal(folder, SEEN, collator(seeing, passage_max_len=6))
    assert "the input (limit passage_max_len) has" in text
    record = {"image": "img/a.png", "conversations": CONVERSATION}
    text = refusal(folder, record, collator(seeing, generative_max_len=6), "generative")
    assert "generative_max_len is 6; raise it" in text


def test_a_batch_of_texts_and_images_keeps_its_order(folder, seeing):
    records = [{"query": "q", "pos": [{"image": f"img/{name}.png"}, "p"]} for name in "ab"]
    found = rows(folder, *records)
    made = collator(seeing, train_group_size=1)
    batch = made.embedding(list(found), [random.Random(seed) for seed in range(2)])
    whole = [made.embedding([row], [random.Random(seed)]) for seed, row in enumerate(found)]
    assert [prompt.ids for prompt in batch.passages] == [one.passages[0].ids for one in whole]
    sizes = [len(prompt.media) for prompt in batch.passages]
    assert sorted(sizes) == [0, 1]
