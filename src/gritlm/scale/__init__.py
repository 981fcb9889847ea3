"""Work on many machines with Ray: bulk embedding and indexing, serving, training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gritlm import lazy

if TYPE_CHECKING:
    from gritlm.scale.bulk.bulk_options import BulkOptions, EmbedReport, WorkerPool
    from gritlm.scale.bulk.embedding_job import embed
    from gritlm.scale.bulk.indexing import IndexReport, IndexSettings, index
    from gritlm.scale.bulk.parts import PartOptions
    from gritlm.scale.training import Workers, train

__all__ = [
    "BulkOptions",
    "EmbedReport",
    "IndexReport",
    "IndexSettings",
    "PartOptions",
    "WorkerPool",
    "Workers",
    "embed",
    "index",
    "train",
]

_HOMES = {
    "BulkOptions": "gritlm.scale.bulk.bulk_options",
    "EmbedReport": "gritlm.scale.bulk.bulk_options",
    "IndexReport": "gritlm.scale.bulk.indexing",
    "IndexSettings": "gritlm.scale.bulk.indexing",
    "PartOptions": "gritlm.scale.bulk.parts",
    "WorkerPool": "gritlm.scale.bulk.bulk_options",
    "Workers": "gritlm.scale.training",
    "embed": "gritlm.scale.bulk.embedding_job",
    "index": "gritlm.scale.bulk.indexing",
    "train": "gritlm.scale.training",
}

__getattr__, __dir__ = lazy.names(__name__, _HOMES)
