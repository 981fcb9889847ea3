"""Families of vision-language models whose decoders take more than features.

Shapes: M placeholders, D hidden size, T tokens of a pass, L tokens with the cached ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from gritlm.lm.attention.block_mask import windowed
from gritlm.lm.media.native import NativeSenses, as_rows
from gritlm.lm.media.senses import Kind, MediaFeatures, MediaPass


class QwenVisionSenses(NativeSenses):
    """Qwen2-VL and Qwen2.5-VL: positions of three dimensions (M-RoPE)."""

    around: ClassVar[Mapping[Kind, tuple[str, str]]] = {
        "image": ("<|vision_start|>", "<|vision_end|>")
    }
    projectors: Sequence[str] = (".merger.", ".deepstack_merger_list.")

    def _offsets(self, inputs: Mapping[str, Any]) -> tuple[Tensor | None, int]:
        (grid,) = inputs["image_grid_thw"]
        merge = int(self.module.config.vision_config.spatial_merge_size)
        offsets_3M = self.module.get_vision_position_ids(0, grid, 1, merge)
        return offsets_3M, int(max(grid[1], grid[2])) // merge


class Qwen3VisionSenses(QwenVisionSenses):
    """Qwen3-VL: features are also added after the first layers of the decoder (DeepStack)."""

    def _pass(self, kind: Kind, inputs: Mapping[str, Any]) -> MediaFeatures:
        del kind
        output = self.module.get_image_features(**inputs, return_dict=True)
        deep = tuple(as_rows(each) for each in output.deepstack_features)
        return MediaFeatures(as_rows(output.pooler_output), deep)

    def decoder_options(self, run: MediaPass) -> dict[str, Any]:
        """Return the states that are added after the first layers, and where."""
        return {
            "visual_pos_masks": (run.item_T >= 0)[None],
            "deepstack_visual_embeds": list(run.deep),
        }


class Gemma3Senses(NativeSenses):
    """Gemma 3: in the causal pass too, the tokens of an image attend to all of them."""

    attends_within = True

    def decoder_options(self, run: MediaPass) -> dict[str, Any]:
        """Return the attention masks of a causal pass."""
        if not run.causal:
            return {}
        size = len(run.ids_T)
        row_T1 = torch.arange(run.held, run.held + size, device=run.ids_T.device)[:, None]
        column_L = torch.arange(run.held + size, device=run.ids_T.device)
        group_T = _groups(run.item_T)
        together_TL = torch.zeros(size, run.held + size, dtype=torch.bool, device=row_T1.device)
        together_TL[:, run.held :] = (group_T[:, None] == group_T) & (group_T >= 0)
        causal_TL = column_L <= row_T1

        def near(window: int) -> Tensor:
            return ((causal_TL & (column_L > row_T1 - window)) | together_TL)[None]

        return {"attention_mask": windowed((causal_TL | together_TL)[None], near, self.decoder)}


def _groups(item_T: Tensor) -> Tensor:
    """Return the number of the run of placeholders that each token is in; -1 for other tokens."""
    inside_T = item_T >= 0
    before_T = torch.cat((item_T.new_tensor([-1]), item_T[:-1]))
    begins_T = inside_T & (item_T != before_T)
    return torch.where(inside_T, begins_T.cumsum(dim=0), -1)
