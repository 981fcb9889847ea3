"""Rows of embedding, and the shares of the machine's own rates."""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks.common import mixed_texts, prompt_ids
from benchmarks.encode import HEADER, sentence_transformer, unsorted
from benchmarks.speed.generation import NO_NUMBA, NOTE, PROMPT, after_first, new_tokens, ours
from benchmarks.speed.measure import Compared, Row, Setting, Taken, timed
from benchmarks.speed.workers import Apart, Room, Round, compare, run_apart
from gritlm import GritLM

OURS = "gritlm"
SAME = "sentence-transformers, bfloat16"
DEFAULTS = "sentence-transformers, defaults"
UNSORTED = "unsorted batches of 32"
ABSENT = "not installed: pip install sentence-transformers"

MATMUL = "floor: bf16 matrix product"
READING = "floor: reading of memory"
ENCODE, DECODE = "encode, products", "decode, weights read"
FAST = f"{DECODE}{NOTE}"
MERGED = "merged"  # folder of the peer's weights
SIZE = "encode-tokens"  # file with the number of tokens of the texts
_SIDE = 1024  # rows and columns of the product
_READ_BYTES = 1 << 28


def mixed(setting: Setting, folder: Path) -> Row:
    """Measure texts of mixed length."""
    title = "encode, mixed texts"
    compared = [
        Compared(f"{title}: {SAME}", OURS, SAME, 3.0),
        Compared(f"{title}: {DEFAULTS}", OURS, DEFAULTS, 6.0),
        Compared(f"{title}: {UNSORTED}", OURS, UNSORTED, 6.0),
    ]
    row = Row(title, "tokens/s", compared)
    places = [Apart([OURS, UNSORTED], our_encoding)]
    if importlib.util.find_spec("sentence_transformers") is None:
        row.missing |= dict.fromkeys((SAME, DEFAULTS), ABSENT)
    elif run_apart(row, (SAME, DEFAULTS), write_merged, setting, folder):
        places += [Apart([side], partial(peer_encoding, side)) for side in (SAME, DEFAULTS)]
    compare(row, places, setting, folder)
    sizes = [taken[0].amount for taken in row.taken.values()]
    row.notes.append(f"{len(texts_of(setting))} texts, {max(sizes, default=0):.0f} tokens")
    return row


def texts_of(setting: Setting) -> list[str]:
    return mixed_texts(16 if setting.quick else 64)


def our_encoding(room: Room) -> dict[str, Round]:
    """Prepare our model, with texts sorted by length, and in the given order."""
    model = GritLM(room.setting.model, dtype="bfloat16")
    texts = texts_of(room.setting)
    size = tokens_of(model, texts)
    return {
        OURS: partial(timed, lambda: model.encode(texts, instruction=HEADER), size),
        UNSORTED: partial(timed, lambda: unsorted(model, texts), size),
    }


def write_merged(room: Room) -> None:
    """Write the model with its adapter merged, and the number of tokens of the texts."""
    model = GritLM(room.setting.model, dtype="bfloat16")
    model.save_pretrained(room.folder / MERGED)
    size = tokens_of(model, texts_of(room.setting))
    (room.folder / SIZE).write_text(str(size), encoding="utf-8")


def peer_encoding(side: str, room: Room) -> dict[str, Round]:
    """Prepare sentence-transformers with the weights of our model."""
    dtype = torch.bfloat16 if side == SAME else None
    place = Path(room.closing.enter_context(tempfile.TemporaryDirectory()))
    model = sentence_transformer(room.folder / MERGED, place / "model", dtype)
    texts = texts_of(room.setting)
    size = int((room.folder / SIZE).read_text(encoding="utf-8"))
    return {side: partial(timed, lambda: model.encode(texts, prompt=HEADER), size)}


def shares(setting: Setting, folder: Path) -> Row:
    """Measure the shares of the machine's rates: of products in encode, of reading in decode."""
    compared = [
        Compared("encode: share of the measured bf16 matmul rate", ENCODE, MATMUL, 0.8),
        Compared("decode: share of the measured memory bandwidth", DECODE, READING, 0.7),
        Compared(f"decode: share of the measured memory bandwidth{NOTE}", FAST, READING, 0.7),
    ]
    row = Row("shares of the machine", "billion operations/s, GB/s", compared)
    places = [
        Apart([MATMUL, READING], floors),
        Apart([ENCODE, DECODE], our_shares),
    ]
    if importlib.util.find_spec("numba") is None:
        row.missing[FAST] = NO_NUMBA
    else:
        places.append(Apart([FAST], compiled_share))
    row.notes.append(
        "products of the linear layers alone, without attention; decode reads all weights with "
        "the LM head once a token, keys and values are not counted"
    )
    return compare(row, places, setting, folder)


def floors(_: Room) -> dict[str, Round]:
    """Prepare a product of matrices, and a sum over memory."""
    left, right = (torch.randn(_SIDE, _SIDE, dtype=torch.bfloat16) for _ in range(2))
    big = torch.ones(_READ_BYTES // 4)
    operations = 8 * 2e-9 * _SIDE**3
    return {
        MATMUL: partial(timed, lambda: [F.linear(left, right) for _ in range(8)], operations),
        READING: partial(timed, lambda: [big.sum() for _ in range(4)], 4e-9 * _READ_BYTES),
    }


def our_shares(room: Room) -> dict[str, Round]:
    """Prepare the encoding of texts, counted in operations, and decoding, counted in bytes."""
    model = GritLM(room.setting.model, dtype="bfloat16")
    texts = mixed_texts(16 if room.setting.quick else 48)
    work = 2e-9 * linear_weights(model) * tokens_of(model, texts)
    return {
        ENCODE: partial(timed, lambda: model.encode(texts, instruction=HEADER), work),
        DECODE: partial(reading, model, room.setting),
    }


def compiled_share(room: Room) -> dict[str, Round]:
    """Prepare decoding with compiled steps, counted in bytes."""
    model = GritLM(room.setting.model, dtype="bfloat16", compile=True)
    return {FAST: partial(reading, model, room.setting)}


def reading(model: GritLM, setting: Setting) -> Taken:
    """Return the time of decoding, with the gigabytes of weights that it reads."""
    tokens = new_tokens(setting)
    ids = prompt_ids(model.tokenizer, PROMPT)
    taken = after_first(partial(ours, model, ids), tokens)
    return replace(taken, amount=tokens * 1e-9 * weight_bytes(model))


def tokens_of(model: GritLM, texts: list[str]) -> int:
    """Return the number of tokens of texts with their header."""
    rows = model.tokenizer([HEADER + text for text in texts])["input_ids"]
    return sum(min(len(ids), model.max_length) for ids in rows)


def linear_weights(model: GritLM) -> int:
    """Return the number of weights of the linear layers, without the LM head."""
    modules = model.lm.decoder.modules()
    return sum(each.weight.numel() for each in modules if isinstance(each, torch.nn.Linear))


def weight_bytes(model: GritLM) -> int:
    """Return the bytes of the weights that a step of decoding reads."""
    head = model.model.get_output_embeddings().weight
    return linear_weights(model) * model.dtype.itemsize + head.nbytes
