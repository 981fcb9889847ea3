"""Work on many machines with Ray: bulk embedding and indexing, serving, training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gritlm import lazy

if TYPE_CHECKING:
    from gritlm.scale.adaptation import adapt
    from gritlm.scale.block_storage import shared_blocks
    from gritlm.scale.bulk.bulk_options import BulkOptions, EmbedReport, VectorForm
    from gritlm.scale.bulk.embedding_job import embed
    from gritlm.scale.bulk.indexing import IndexReport, IndexSettings, index
    from gritlm.scale.bulk.parts import PartOptions
    from gritlm.scale.evaluation import evaluate
    from gritlm.scale.training import Workers, train
    from gritlm.scale.worker_pool import WorkerPool

__all__ = [
    "BulkOptions",
    "EmbedReport",
    "IndexReport",
    "IndexSettings",
    "PartOptions",
    "VectorForm",
    "WorkerPool",
    "Workers",
    "adapt",
    "embed",
    "evaluate",
    "index",
    "shared_blocks",
    "train",
]

_HOMES = {
    "BulkOptions": "gritlm.scale.bulk.bulk_options",
    "EmbedReport": "gritlm.scale.bulk.bulk_options",
    "IndexReport": "gritlm.scale.bulk.indexing",
    "IndexSettings": "gritlm.scale.bulk.indexing",
    "PartOptions": "gritlm.scale.bulk.parts",
    "VectorForm": "gritlm.scale.bulk.bulk_options",
    "WorkerPool": "gritlm.scale.worker_pool",
    "Workers": "gritlm.scale.training",
    "adapt": "gritlm.scale.adaptation",
    "embed": "gritlm.scale.bulk.embedding_job",
    "evaluate": "gritlm.scale.evaluation",
    "index": "gritlm.scale.bulk.indexing",
    "shared_blocks": "gritlm.scale.block_storage",
    "train": "gritlm.scale.training",
}

__getattr__, __dir__ = lazy.names(__name__, _HOMES)
