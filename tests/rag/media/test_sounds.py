"""Recordings in a store: windows with their times, and sounds that are not read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gritlm.errors import InputError
from gritlm.lm.generator import complete
from gritlm.lm.media.files import MediaRules
from gritlm.lm.media.senses import DecodedSound
from gritlm.lm.media.wav import read_wav, wav_of
from gritlm.lm.sampling import SamplingParams
from gritlm.prompts import for_rag
from gritlm.rag.ingest.ingest import ChunkingOptions
from gritlm.rag.media import media_files
from gritlm.rag.types import MediaPlace
from tests.rag.media.conftest import QUESTION, opened, recording

BRIEF = SamplingParams(max_new_tokens=8)


def tone(seconds: float, rate: int = 16_000) -> DecodedSound:
    time_N = np.arange(round(seconds * rate)) / rate
    return DecodedSound(np.sin(2 * np.pi * 440 * time_N).astype(np.float32) / 2, rate)


def test_a_sound_is_cut_into_windows_with_their_times():
    pieces = media_files.windows(tone(70.05), 30)
    assert [(piece.place.start, piece.place.end) for piece in pieces] == [
        (0, 30),
        (30, 60),
        (60, pytest.approx(70.05)),
    ]
    assert [piece.place.label for piece in pieces] == ["0:00-0:30", "0:30-1:00", "1:00-1:10"]
    joined = np.concatenate([read_wav(piece.data, "it")[0][0] for piece in pieces])
    assert np.abs(joined - tone(70.05).samples).max() < 1e-4
    assert [piece.place.end for piece in media_files.windows(tone(60.05), 30)] == [30, 60]
    assert [piece.place.end for piece in media_files.windows(tone(0.05), 30)] == [0.05]
    assert MediaPlace("sound", start=3725, end=3755).label == "1:02:05-1:02:35"


def test_silent_windows_are_left_out():
    sound = tone(3)
    sound.samples[16_000:32_000] = 0
    assert [piece.place.start for piece in media_files.windows(sound, 1)] == [0, 2]


def test_windows_of_nothing_are_refused():
    for seconds in (0, -1, float("nan"), 0.01):
        with pytest.raises(InputError, match=r"too short; expected 0\.1 or more"):
            media_files.windows(tone(1), seconds)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_stored_sounds_have_at_most_the_rate_of_the_models(rate):
    (piece,) = media_files.read("sound", wav_of(tone(1, rate)), MediaRules(), seconds=30)
    samples, found = read_wav(piece.data, "it")
    assert found == min(rate, 16_000)
    assert samples.shape == (1, found)
    assert np.abs(samples[0, 400:-400] - tone(1, found).samples[400:-400]).max() < 0.01


@pytest.mark.parametrize("family", ["qwen2_audio", "voxtral"])
def test_an_answer_from_a_stored_window_is_that_of_a_fresh_pass(model_of, tmp_path, family):
    model = model_of(family)
    path = recording(tmp_path / "call.wav")
    with opened(tmp_path / "store", model) as engine:
        added = engine.add([path])
        assert (added.documents, added.passages, added.skipped) == (1, 3, [])
        answer = engine.answer(QUESTION, top_k=1, sampling=BRIEF)
        (source,) = answer.sources
        start, end = source.media.start, source.media.end
        assert (start, end) in ((0, 0.8), (0.8, 1.6), (1.6, 2.0))
        assert answer.trace.tokens_computed == 0 < answer.trace.tokens_reused
        samples, rate = read_wav(path.read_bytes(), "it")
        part = samples[0, round(start * rate) : round(end * rate)]
        prompt = engine._assembler.media.prompt("", "sound", wav_of(DecodedSound(part, rate)))
        tail = engine._assembler.tokens.for_chat(
            for_rag("doc", question=QUESTION, documents=()), start=False
        )
    ids, media = [*prompt.ids, *tail.ids], prompt.media
    block = model.lm.causal_block(torch.tensor(prompt.ids), media=media)
    assert len(ids) > block.tokens == answer.trace.tokens_reused
    sampler = BRIEF.sampler(end_ids=model.end_ids)
    tokens = complete(
        model.lm, tail.ids, kv=block, sampler=sampler, max_new_tokens=8, end_ids=model.end_ids
    )
    assert answer.text == model.tokenizer.decode([*tokens], skip_special_tokens=True)


def test_bad_sounds_are_skipped_with_their_reasons(hearing, tmp_path, monkeypatch):
    silent = DecodedSound(np.zeros(8000, dtype=np.float32), 16_000)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/broken.wav").write_bytes(b"RIFF\0\0\0\0WAVEfmt ")
    recording(tmp_path / "in/long.wav", 3)
    (tmp_path / "in/silent.wav").write_bytes(wav_of(silent))
    monkeypatch.setattr(hearing, "media_rules", MediaRules(longest_sound=2.5))
    with opened(tmp_path / "store", hearing) as engine:
        added = engine.add([tmp_path / "in"])
        assert [each.reason for each in added.skipped] == [
            "the sound is a damaged WAV file: it has no samples; save it again",
            "the sound is 3 s long, at most 2 s are read; cut it",
            "the sound is silent: all samples are 0",
        ]
        assert not (tmp_path / "store/media").exists()


def test_windows_longer_than_the_model_hears_are_reported_with_their_time(hearing, tmp_path):
    cutting = ChunkingOptions(max_tokens=64, seconds=1.5)
    with opened(tmp_path / "store", hearing, cutting=cutting) as engine:
        (skipped,) = engine.add([recording(tmp_path / "call.wav")]).skipped
    assert skipped.reason == (
        "0:00-0:01: the sound: it is 1.5 s long, the model hears 1 s; cut it into windows"
    )
