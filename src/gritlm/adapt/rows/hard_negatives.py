"""Hard negatives of questions: near passages of the collection, without those that may answer.

Shapes: P passages, Q queries, D of a vector.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from gritlm.adapt.collection import CollectedPassage
from gritlm.adapt.config import WRITTEN_KINDS, AdaptConfig
from gritlm.adapt.run_folder import MadeRows, Row, RunFolder
from gritlm.adapt.starting_model import StartingModel
from gritlm.train.data.collate import key
from gritlm.train.mining.negatives import MiningConfig, choose

FILE = "negatives.jsonl"
FALSE_NEGATIVE = "false negatives"
WITHOUT = "questions without negatives"
_CANDIDATES = 3  # for each negative that is wanted
_RANGE = 30  # nearest passages that are considered
_QUESTIONS = 64  # of a batch


@dataclass(frozen=True)
class HardNegatives:
    """Choice of hard negatives among the passages of the training part.

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

    def mine(
        self, questions: Sequence[Row], folder: RunFolder, *, progress: bool | None = None
    ) -> MadeRows:
        """Return the questions, each with the ids of its hard negatives as ``negatives``.

        A passage after which the question is about as likely as after its own one is a false
        negative: it may hold the answer too. Key terms and claims have no negatives: their words
        lead to the passage, and in training a negative costs as much as a pair.

        Args:
            questions: filtered questions.
            folder: folder of the run, which keeps finished batches.
            progress: show a progress bar; None: on a terminal.
        """
        passage_PD = self.model.passage_vectors(self.passages, progress=progress)
        own: dict[int, set[str]] = defaultdict(set)
        for row in questions:
            own[key(row["question"])].add(row["passage"])
        return folder.in_batches(
            FILE,
            questions,
            lambda batch: self._of_batch(batch, passage_PD, own),
            size=_QUESTIONS,
            progress=progress,
        )

    def _of_batch(
        self, questions: Sequence[Row], passage_PD: Tensor, own: dict[int, set[str]]
    ) -> MadeRows:
        places = self._places
        wanted = self.config.negatives
        found = choose(
            self.model.query_vectors([row["question"] for row in questions]),
            passage_PD,
            [{places[name] for name in own[key(row["question"])]} for row in questions],
            MiningConfig(
                num_negatives=_CANDIDATES * wanted,
                range_max=max(_RANGE, _CANDIDATES * wanted),
                seed=self.config.seed,
            ),
        )
        made = MadeRows()
        for row, indices in zip(questions, found, strict=True):
            if row["kind"] not in WRITTEN_KINDS:
                made.keep({**row, "negatives": []})
                continue
            true = self._true_negatives(row, places[row["passage"]], indices, made)
            if not true:
                made.drop(WITHOUT)
            made.keep({**row, "negatives": [self.passages[index].id for index in true[:wanted]]})
        return made

    def _true_negatives(
        self, row: Row, own: int, indices: Sequence[int], made: MadeRows
    ) -> list[int]:
        """Return the candidates that hold no answer, by the likelihood of the question."""
        if not indices:
            return []
        texts = [self.passages[index].embedded for index in (own, *indices)]
        likely, *others = self.model.likelihoods(row["question"], texts)
        true = [
            index
            for index, other in zip(indices, others, strict=True)
            if other < likely - self.config.margin
        ]
        if false := len(indices) - len(true):
            made.counts[FALSE_NEGATIVE] += false
        return true
