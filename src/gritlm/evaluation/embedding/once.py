"""Encoder that embeds each distinct text of a task once.

Shapes: N inputs, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gritlm.evaluation.embedding.batches import has_media

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.model_meta import ModelMeta
    from mteb.models.models_protocols import EncoderProtocol


class EncodeOnce:
    """Wrapper around an encoder of mteb that skips texts it has embedded before, for one task.

    mteb embeds the two columns of a pair, or the rows to train and to test on, in separate calls,
    and many texts are in both: these vectors are kept. Queries and documents come in a single call
    each (documents in chunks, one of them in memory at a time). There, only repeated texts within
    the call are skipped. Images and sounds are passed on as they come.

    Args:
        inner: the encoder.
    """

    def __init__(self, inner: EncoderProtocol) -> None:
        self.inner = inner
        self._known: dict[str, NDArray[Any]] = {}

    def encode(
        self,
        inputs: Iterable[Any],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **options: Any,
    ) -> NDArray[Any]:
        """Return the embeddings of batches, as the inner encoder does: (N, D)."""
        batches = iter(inputs)
        first: Any = next(batches, {"text": []})
        together: Any = chain([first], batches)
        if has_media(first) or "text" not in first:
            return np.asarray(
                self.inner.encode(
                    together,
                    task_metadata=task_metadata,
                    hf_split=hf_split,
                    hf_subset=hf_subset,
                    prompt_type=prompt_type,
                    **options,
                )
            )
        texts = [text for batch in together for text in batch["text"]]
        known = self._known if prompt_type is None else {}
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            vectors_ND = self.inner.encode(
                _loader(new, options.get("batch_size", 32)),
                task_metadata=task_metadata,
                hf_split=hf_split,
                hf_subset=hf_subset,
                prompt_type=prompt_type,
                **options,
            )
            known.update(zip(new, np.asarray(vectors_ND), strict=True))
        return np.stack([known[text] for text in texts])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of each pair of vectors, as the inner encoder does."""
        return self.inner.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of vector i with vector i, as the inner encoder does."""
        return self.inner.similarity_pairwise(embeddings1, embeddings2)

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """Metadata of the inner encoder."""
        return self.inner.mteb_model_meta


def _loader(texts: list[str], batch_size: int) -> Any:
    """Return the input of mteb's encoders: batches of a table with a column ``text``."""
    from datasets import Dataset
    from torch.utils.data import DataLoader

    return DataLoader(Dataset.from_dict({"text": texts}), batch_size=batch_size)
