"""Adapter of GritLM to mteb's encoder protocol, with instructions for queries and documents."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gritlm.evaluation import harnesses
from gritlm.evaluation.embedding import batches, instructions
from gritlm.evaluation.embedding.instructions import TaskInstructions
from gritlm.prompts import gritlm_instruction

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.model_meta import ModelMeta
    from numpy.typing import NDArray
    from torch import Tensor

    from gritlm.lm.gritlm import GritLM, Vectors


def mteb_encoder(model: GritLM) -> GritLMEncoder:
    """Return a model for ``mteb.evaluate(mteb_encoder(model), mteb.get_task("STSBenchmark"))``.

    Raises:
        MissingExtraError: if mteb is not installed.
    """
    harnesses.require("embedding")
    return GritLMEncoder(model)


class GritLMEncoder:
    """Implementation of ``mteb.models.EncoderProtocol``.

    Args:
        model: model that embeds.
        sides: instructions to use; None for those known for the task.
    """

    def __init__(self, model: GritLM, sides: TaskInstructions | None = None) -> None:
        self.model = model
        self.sides = sides

    def encode(
        self,
        inputs: Iterable[Any],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,  # noqa: ARG002  (mteb hands it in; no instruction depends on it)
        hf_subset: str,  # noqa: ARG002
        prompt_type: str | None = None,
        batch_size: int = 256,
        show_progress_bar: bool = False,
        precision: str = "float32",
    ) -> NDArray[Any]:
        """Return the embeddings of batches of texts, images and sounds: (N, D), float32.

        Args:
            inputs: batches, each a mapping with lists in the columns ``text``, ``image`` and
                ``audio``, or some of them.
            task_metadata: metadata of the task, which selects the instructions.
            hf_split: ignored.
            hf_subset: ignored.
            prompt_type: ``query``, ``document``, or None for a task without these two sides.
            batch_size: number of inputs in a batch.
            show_progress_bar: whether to show a progress bar.
            precision: ``float32``, or a quantized format of :meth:`GritLM.encode`.

        Raises:
            InputError: for images or sounds that the model does not read, and for videos.
        """
        sides = self.sides or instructions.of(task_metadata)
        vectors = [
            self.model.encode(
                group,
                instruction=gritlm_instruction(sides.of(prompt_type)),
                batch_size=batch_size,
                show_progress_bar=show_progress_bar,
                precision=precision,
            )
            for group in batches.groups(inputs, batch_size)
        ]
        return np.concatenate(vectors)

    def similarity(self, embeddings1: Vectors, embeddings2: Vectors) -> Tensor:
        """Return the cosine similarity of each pair of vectors: (N, M)."""
        return self.model.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Vectors, embeddings2: Vectors) -> Tensor:
        """Return the cosine similarity of vector i with vector i: (N,)."""
        return self.model.similarity_pairwise(embeddings1, embeddings2)

    @cached_property
    def mteb_model_meta(self) -> ModelMeta:
        """Name and revision under which mteb keeps results, licence, languages, training data."""
        from gritlm.evaluation.embedding.model_meta import meta_of

        return meta_of(self.model)
