"""Bulk embedding: files to vectors on many devices, in parts that are never embedded twice."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gritlm.errors import InputError
from gritlm.scale import cluster, ray_library
from gritlm.scale.bulk import parts as parting
from gritlm.scale.bulk import quantising
from gritlm.scale.bulk.bulk_options import BulkOptions, EmbedReport
from gritlm.scale.bulk.only_job import only_job
from gritlm.scale.bulk.parts import InputFile, Part
from gritlm.scale.bulk.pipeline import EmbeddingPipeline
from gritlm.scale.bulk.staging import Staging
from gritlm.scale.bulk.tokenising import TokenOptions
from gritlm.scale.storage import Location

log = logging.getLogger(__name__)

VERSION = 1  # of the files that a job writes


def embed(
    sources: str | Path | Sequence[str | Path],
    output: str | Path,
    options: BulkOptions | None = None,
    *,
    address: str | None = None,
) -> EmbedReport:
    """Embed the rows of files on all devices of a cluster, and write their vectors as Parquet.

    Files and output are paths or addresses such as ``s3://bucket/folder`` that every worker
    reaches. The vectors appear in the output when the job commits. A job that was killed goes on
    with the same call, and embeds no committed part again.

    Args:
        sources: Parquet, JSON Lines and text files, or folders of them.
        output: folder of the result, with the columns ``id`` and ``embedding``.
        options: settings; None for the defaults.
        address: address of a Ray cluster; ``auto`` for that of this machine, None for a Ray of
            this process alone.

    Raises:
        MissingExtraError: without Ray.
        InputError: for sources or an output that cannot be used, or a second job on one output.
        StorageError: for a folder or bucket that cannot be read or written.
        ClusterError: for a cluster that cannot be used, or a worker that fails.
    """
    ray_library.require()
    started = time.monotonic()
    options = options or BulkOptions()
    named = [sources] if isinstance(sources, str | Path) else list(sources)
    files = parting.input_files([Location.of(each) for each in named])
    parts = parting.plan(files, options.parts)
    source, adapter, tokens = _tokens(options)
    job = _description(files, options, tokens)
    staging = Staging.of(Location.of(output), scaled=options.vectors.is_scaled)
    if staging.is_published(job):
        staging.remove_floats()
        log.warning("%s is complete; nothing is embedded", staging.output.url)
        complete = Staging.finished(staging.output)
        return _report(complete, parts, resumed=len(parts), counts=[], started=started)
    tokeniser = {"source": source, "adapter": adapter, "options": tokens}
    pipeline = EmbeddingPipeline(staging, files, parts, options, tokeniser)
    with only_job(staging):
        staging.begin(job)
        done = staging.done()
        with cluster.connected(address):
            counts = list(pipeline.rows(done))
            if missing := len(parts) - len(staging.done()):
                raise cluster.ClusterError(
                    f"{missing} parts are missing; run the same command again"
                )
            if options.vectors.is_scaled:
                quantising.quantise(staging, len(parts), options.vectors.precision)
        report = _report(staging, parts, resumed=len(done), counts=counts, started=started)
        staging.publish()
    return report


def _report(
    staging: Staging,
    parts: Sequence[Part],
    *,
    resumed: int,
    counts: Sequence[dict[str, Any]],
    started: float,
) -> EmbedReport:
    return EmbedReport(
        output=staging.output.url,
        rows=staging.rows(),
        rejected=staging.rows(rejected=True),
        cut=sum(int(row["cut"]) for row in counts),
        parts=len(parts),
        resumed=resumed,
        tokens=sum(int(row["tokens"]) for row in counts),
        seconds=time.monotonic() - started,
    )


def _tokens(options: BulkOptions) -> tuple[str, str | None, TokenOptions]:
    """Return checkpoint and adapter of the tokenizer, and the conversion of texts.

    Raises:
        ModelError: for a model that cannot be found.
        InputError: for more tokens than the model takes.
    """
    from transformers import AutoConfig

    from gritlm.lm.hub import checkpoint
    from gritlm.lm.hub.load import load_tokenizer
    from gritlm.lm.hub.load_errors import explained

    model = options.model
    chosen = model.get("embed_adapter") or model.get("adapter")
    source, adapter = checkpoint.resolve(model.get("model_name_or_path"), chosen)
    _, settings = load_tokenizer(source, adapter=adapter)
    with explained(source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    positions = model.get("max_model_len") or getattr(config, "max_position_embeddings", None)
    _require_dimension(options, settings.projection or config.hidden_size)
    longest = options.max_length or settings.longest_text(positions)
    if positions is not None and longest > positions:
        raise InputError(f"max_length={longest}, the model takes at most {positions} tokens")
    if settings.trained_to_embed is False:
        log.warning("%s is not trained to embed; its vectors rank texts poorly", source)
    return source, adapter, TokenOptions(longest, options.truncate, options.instruction)


def _require_dimension(options: BulkOptions, dimension: int) -> None:
    """Refuse more dimensions than the vectors have, before workers start."""
    size = options.vectors.truncate_dim
    if size is not None and size > dimension:
        raise InputError(f"truncate_dim={size}; expected 1 to {dimension}")


def _description(
    files: Sequence[InputFile], options: BulkOptions, tokens: TokenOptions
) -> dict[str, Any]:
    """Return what two runs must have in common to be the same job; it has no credentials."""
    return {
        "version": VERSION,
        "input": [[each.location.url, each.size, each.changed] for each in files],
        "model": {
            name: str(value) for name, value in sorted(options.model.items()) if name != "token"
        },
        "texts": [tokens.max_length, tokens.truncate, tokens.instruction],
        "vectors": [options.vectors.truncate_dim, options.vectors.precision],
        "columns": [options.parts.field, options.parts.id_field],
        "parts": [options.parts.rows, options.parts.line_bytes],
    }
