"""Random blocks of a model that is only a name."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import torch

from gritlm.lm.kv.block import KVBlock
from gritlm.lm.kv.rope import RopeTable
from gritlm.rag.identity import ModelIdentity
from gritlm.rag.kvstore.store import KVStore

MODEL = "a tiny model"
LAYERS, HEADS, DIM = 3, 2, 12


def maker(model: str = MODEL, digest: str = "d1") -> ModelIdentity:
    rope = RopeTable(torch.linspace(1, 0.1, DIM // 2).repeat(LAYERS, 1))
    return ModelIdentity(
        model=model,
        digest=digest,
        name=f"models/{model}",
        rope=rope,
        kv_bytes_per_token=2 * LAYERS * HEADS * DIM * 4,
        dimension=8,
    )


def block(
    seed: int = 0,
    tokens: int = 5,
    *,
    causal: bool = False,
    dtype: torch.dtype = torch.float32,
    shape: tuple[int, int, int] = (LAYERS, HEADS, DIM),
    model: str = MODEL,
) -> KVBlock:
    """What reading ``tokens`` ids that follow from the seed leaves behind."""
    layers, heads, dim = shape
    random = torch.Generator().manual_seed(seed)
    place_T = torch.arange(tokens)
    return KVBlock(
        data=torch.randn(layers, 2, heads, tokens, dim, generator=random).to(dtype),
        token_ids=torch.arange(tokens) + 1000 * seed,
        stored_T=place_T,
        position_T=place_T,
        causal=causal,
        model=model,
        rope=None,
    )


def key_of(store: KVStore, one: KVBlock) -> bytes:
    return store.key(one.token_ids.tolist(), causal=one.causal)


def put(store: KVStore, *made: KVBlock) -> list[bytes]:
    """Put blocks; all are admitted. Returns their keys."""
    keys = [key_of(store, one) for one in made]
    assert store.put_many(zip(keys, made, strict=True)) == len(made)
    return keys


def opened(folder: Path, **options: object) -> KVStore:
    """A store of float32 blocks."""
    return KVStore.open(folder, maker(), **({"dtype": torch.float32} | options))


def same(store: KVStore, key: bytes, made: KVBlock) -> bool:
    """Whether the store gives back exactly this block."""
    found = store.fetch(key)
    return (
        found is not None
        and torch.equal(found.block.data, made.data)
        and torch.equal(found.block.token_ids, made.token_ids)
        and found.block.causal == made.causal
    )


# Children are forked: they need nothing imported again. Each opens the store for itself, since
# what LMDB has open does not survive a fork.
processes = multiprocessing.get_context("fork")
