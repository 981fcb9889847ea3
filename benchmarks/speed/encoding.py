"""Rows of embedding, and the shares of the machine's own rates."""

from __future__ import annotations

import importlib.util
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks.common import mixed_texts
from benchmarks.encode import HEADER, sentence_transformer, unsorted
from benchmarks.speed.generation import NO_NUMBA, NOTE, PROMPT, after_first, ours, prompt
from benchmarks.speed.measure import Compared, Row, Setting, Taken, alternate, timed
from gritlm import GritLM

OURS = "gritlm"
SAME = "sentence-transformers, bfloat16"
DEFAULTS = "sentence-transformers, defaults"
UNSORTED = "unsorted batches of 32"
ABSENT = "not installed: pip install sentence-transformers"

MATMUL = "floor: bf16 matrix product"
READING = "floor: reading of memory"
_SIDE = 1024  # rows and columns of the product
_READ_BYTES = 1 << 28


def mixed(setting: Setting, _: Path) -> Row:
    """Measure texts of mixed length."""
    model = GritLM(setting.model, dtype="bfloat16")
    texts = mixed_texts(16 if setting.quick else 64)
    size = tokens_of(model, texts)
    title = "encode, mixed texts"
    compared = [
        Compared(f"{title}: {SAME}", OURS, SAME, 3.0),
        Compared(f"{title}: {DEFAULTS}", OURS, DEFAULTS, 6.0),
        Compared(f"{title}: {UNSORTED}", OURS, UNSORTED, 6.0),
    ]
    row = Row(title, "tokens/s", compared)
    runs = {
        OURS: lambda: model.encode(texts, instruction=HEADER),
        UNSORTED: lambda: unsorted(model, texts),
    }
    if importlib.util.find_spec("sentence_transformers") is None:
        row.missing |= dict.fromkeys((SAME, DEFAULTS), ABSENT)
    else:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(Path(folder) / "merged")
            merged = Path(folder) / "merged"
            same = sentence_transformer(merged, Path(folder) / "same", model.dtype)
            default = sentence_transformer(merged, Path(folder) / "default", None)
        runs[SAME] = lambda: same.encode(texts, prompt=HEADER)
        runs[DEFAULTS] = lambda: default.encode(texts, prompt=HEADER)
    row.taken = alternate(
        {name: partial(timed, run, size) for name, run in runs.items()}, setting.repeats
    )
    row.notes.append(f"{len(texts)} texts, {size} tokens")
    return row


def shares(setting: Setting, _: Path) -> Row:
    """Measure the shares of the machine's rates: of products in encode, of reading in decode."""
    model = GritLM(setting.model, dtype="bfloat16")
    texts = mixed_texts(16 if setting.quick else 48)
    tokens = 32 if setting.quick else 128
    ids = prompt(model, PROMPT)
    encode, decode = "encode, products", "decode, weights read"
    fast = f"{decode}{NOTE}"
    compared = [
        Compared("encode: share of the measured bf16 matmul rate", encode, MATMUL, 0.8),
        Compared("decode: share of the measured memory bandwidth", decode, READING, 0.7),
        Compared(f"decode: share of the measured memory bandwidth{NOTE}", fast, READING, 0.7),
    ]
    row = Row("shares of the machine", "billion operations/s, GB/s", compared)
    work = 2e-9 * linear_weights(model) * tokens_of(model, texts)
    left, right = (torch.randn(_SIDE, _SIDE, dtype=torch.bfloat16) for _ in range(2))
    big = torch.ones(_READ_BYTES // 4)
    read = 1e-9 * weight_bytes(model)

    def decoded(by: GritLM) -> Taken:
        taken = after_first(partial(ours, by, ids), tokens)
        return Taken(taken.wall, taken.cpu, tokens * read)

    def multiplied() -> Taken:
        return timed(lambda: [F.linear(left, right) for _ in range(8)], 8 * 2e-9 * _SIDE**3)

    sides = {
        MATMUL: multiplied,
        encode: partial(timed, lambda: model.encode(texts, instruction=HEADER), work),
        READING: partial(timed, lambda: [big.sum() for _ in range(4)], 4e-9 * _READ_BYTES),
        decode: partial(decoded, model),
    }
    if importlib.util.find_spec("numba") is None:
        row.missing[fast] = NO_NUMBA
    else:
        sides[fast] = partial(decoded, GritLM(setting.model, dtype="bfloat16", compile=True))
    with torch.inference_mode():
        row.taken = alternate(sides, setting.repeats)
    row.notes.append(
        "products of the linear layers alone, without attention; decode reads all weights with "
        "the LM head once a token, keys and values are not counted"
    )
    return row


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
