"""Round-trip filter: a question must lead back to the passage that it was written on.

The passage must be among the nearest ones of its question, and the question likelier after it than
after the best other passages.

Shapes: P passages, Q queries, D of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from gritlm.adapt.collection import CollectedPassage
from gritlm.adapt.config import AdaptConfig
from gritlm.adapt.run_folder import MadeRows, Row, RunFolder
from gritlm.adapt.starting_model import StartingModel
from gritlm.train.mining.negatives import nearest

FILE = "filtered.jsonl"
NOT_NEAR = "passage not among the nearest"
LIKELIER = "likelier after another passage"
_OTHERS = 2  # best other passages that a question is read after
_QUESTIONS = 64  # of a batch


@dataclass(frozen=True)
class RoundTrip:
    """Round-trip filter over the passages of the training part.

    Attributes:
        config: settings of the run.
        model: the model that is adapted.
        passages: passages of the training part.
    """

    config: AdaptConfig
    model: StartingModel
    passages: Sequence[CollectedPassage]

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {passage.id: place for place, passage in enumerate(self.passages)}

    def filter(
        self, questions: Sequence[Row], folder: RunFolder, *, progress: bool | None = None
    ) -> MadeRows:
        """Return the questions that lead back to their passages, with rank and likelihood.

        Args:
            questions: questions of the training part.
            folder: folder of the run, which keeps finished batches.
            progress: show a progress bar; None: on a terminal.
        """
        passage_PD = self.model.passage_vectors(self.passages, progress=progress)
        return folder.in_batches(
            FILE,
            questions,
            lambda batch: self._of_batch(batch, passage_PD),
            size=_QUESTIONS,
            progress=progress,
        )

    def _of_batch(self, questions: Sequence[Row], passage_PD: Tensor) -> MadeRows:
        query_QD = self.model.query_vectors([row["question"] for row in questions])
        depth = max(self.config.top_k, _OTHERS + 1)
        indices_QK = nearest(query_QD, passage_PD, depth)[1].tolist()
        made = MadeRows()
        for row, near in zip(questions, indices_QK, strict=True):
            own = self._places[row["passage"]]
            if own not in near[: self.config.top_k]:
                made.drop(NOT_NEAR)
                continue
            others = [index for index in near if index != own][:_OTHERS]
            texts = [self.passages[index].embedded for index in (own, *others)]
            likely, *rest = self.model.likelihoods(row["question"], texts)
            if rest and max(rest) > likely:
                made.drop(LIKELIER)
                continue
            made.keep({**row, "rank": near.index(own) + 1, "likelihood": round(likely, 4)})
        return made
