"""The frozen decoder of the default model, for the training of projectors.

Shapes: B pictures, M media tokens, T tokens, N answer tokens, V vocabulary, D hidden size.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from gritlm import GritLM, gritlm_instruction


class Decoder:
    """The frozen decoder of the default model.

    Args:
        dtype: type of the weights; None for that of the machine.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self.model = GritLM(dtype=dtype)
        causal = self.model.lm.causal
        causal.requires_grad_(False)
        self.decoder = self.model.lm.decoder
        self.table_VD = causal.get_input_embeddings().weight
        self.dtype = self.table_VD.dtype
        tokens = self.model._tokens
        frame = tokens.embedding_frame(
            instruction=gritlm_instruction(), end="", embed_instruction=False, specials=True
        )
        self.head, self.tail, self.pooled_from = frame.head, frame.tail, frame.pooled_from
        before = self.model.chat_ids([{"role": "user", "content": "\u2603"}])
        mark = tokens.pieces(["\u2603"], first=False)[0]
        start = next(i for i in range(len(before)) if before[i : i + len(mark)] == mark)
        self.before = before[:start]
        self.after = before[start + len(mark) :]
        self.end = int(next(iter(self.model.end_ids)))
        self._tokens = tokens

    def ids(self, text: str) -> list[int]:
        return list(self._tokens.pieces([text], first=False)[0])

    def rows(self, ids: Any) -> Tensor:
        return self.table_VD[torch.tensor(ids, dtype=torch.long)]

    def embed(self, states: Sequence[Tensor]) -> Tensor:
        """Return the normalised vectors (B, D) of media tokens, as encode_document does.

        Args:
            states: media tokens (M, D) of each picture or sound.
        """
        rows = [
            torch.cat([self.rows(self.head), each_MD.to(self.dtype), self.rows(self.tail)])
            for each_MD in states
        ]
        lengths = torch.tensor([len(row) for row in rows])
        x_BTD = pad_sequence(rows, batch_first=True)
        present_BT = torch.arange(x_BTD.shape[1])[None] < lengths[:, None]
        mask = torch.zeros(len(rows), 1, 1, x_BTD.shape[1], dtype=self.dtype)
        mask = mask.masked_fill(~present_BT[:, None, None], torch.finfo(self.dtype).min)
        h_BTD = self.decoder(
            inputs_embeds=x_BTD,
            attention_mask=mask.expand(-1, -1, x_BTD.shape[1], -1),
            use_cache=False,
        ).last_hidden_state
        pooled_BT = present_BT.clone()
        pooled_BT[:, : self.pooled_from] = False
        weights_BT = pooled_BT / pooled_BT.sum(1, keepdim=True)
        return F.normalize((h_BTD.float() * weights_BT[..., None]).sum(1), dim=-1)

    def answer_logits(
        self, states_MD: Tensor, turns: list[tuple[str, str]]
    ) -> tuple[Tensor, Tensor]:
        """Return the logits (N, V) and labels (N,) of answers about one picture.

        The turns share the picture and do not see each other.
        """
        shared = [self.rows(self.before), states_MD.to(self.dtype)]
        start = sum(len(part) for part in shared)
        ids: list[int] = []
        positions = list(range(start))
        owner = [-1] * start
        places, labels = [], []
        for number, (question, answer) in enumerate(turns):
            asked = self.ids("\n" + question) + list(self.after)
            replied = [*self.ids(answer), self.end]
            for offset, label in enumerate(replied):
                places.append(start + len(ids) + len(asked) - 1 + offset)
                labels.append(label)
            own = asked + replied[:-1]
            ids += own
            positions += range(start, start + len(own))
            owner += [number] * len(own)
        x_TD = torch.cat([*shared, self.rows(ids)])
        owners = torch.tensor(owner)
        order = torch.arange(len(owner))
        seen = (order[:, None] >= order[None]) & (
            (owners[None] == -1) | (owners[None] == owners[:, None])
        )
        mask = torch.zeros(seen.shape, dtype=self.dtype).masked_fill(~seen, -1e9)
        h_TD = self.decoder(
            inputs_embeds=x_TD[None],
            attention_mask=mask[None, None],
            position_ids=torch.tensor(positions)[None],
            use_cache=False,
        ).last_hidden_state[0]
        logits_NV = h_TD[torch.tensor(places)] @ self.table_VD.T
        return logits_NV.float(), torch.tensor(labels)


def caption_of(row: dict[str, Any], chance: random.Random) -> str:
    return str(row["name"] if chance.random() < 0.7 else row["also"][0])


def vectors_of(model: GritLM, names: list[str], file: Path) -> Any:
    """Return the vectors of names, computed once."""
    if not file.exists():
        np.save(file, model.encode_document(names))
    found = np.load(file)
    if len(found) != len(names):
        raise SystemExit(f"{file} has {len(found)} vectors, expected {len(names)}; delete it")
    return found
