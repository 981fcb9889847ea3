"""Model card of a run: data, settings, metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gritlm import __version__
from gritlm.lm.hub.default_model import BASE, OURS
from gritlm.lm.hub.weight_sources import HUB
from gritlm.train.config import TrainConfig
from gritlm.train.data.sources import Dataset
from gritlm.train.run import metrics_log

_LATEST = ("loss_emb", "loss_gen")


def write(
    target: Path,
    run: TrainConfig,
    *,
    folder: Path,
    sources: Mapping[str, Sequence[Dataset]],
    steps: int,
    metrics: Mapping[str, float],
    skipped: int,
) -> None:
    """Write ``README.md`` with the front matter that model hubs read.

    Args:
        target: existing folder to write to.
        run: settings of the run.
        folder: folder of the run, with ``metrics.jsonl``.
        sources: sources of each stream.
        steps: number of optimizer steps.
        metrics: results of the final evaluation.
        skipped: rows that have no token in the loss after truncation.
    """
    tags = ["gritlm", *(["sentence-similarity", "feature-extraction"] if run.embeds else [])]
    mode = run.training.mode
    ours = run.model.base in OURS
    base = HUB if ours else run.model.base  # the published name, not a local path
    start = f"the default model (`{HUB}`)" if ours and run.model.base != BASE else f"`{base}`"
    lines = [
        "---",
        f"base_model: {base}",
        "library_name: gritlm",
        f"pipeline_tag: {'text-generation' if run.writes else 'sentence-similarity'}",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "---",
        "",
        f"# {folder.resolve().name}",
        "",
        f"Trained with gritlm {__version__} from {start}: mode `{mode}`, {steps} steps.",
        "",
        f'```python\nfrom gritlm import GritLM\n\nmodel = GritLM("{folder.name}")\n```\n',
        "## Data",
        "",
        "| stream | source | rows | weight | duplicates left out | unusable rows skipped |",
        "| --- | --- | --- | --- | --- | --- |",
        *_source_rows(sources, skipped),
        "## Measured",
        "",
        *_measured(folder, metrics),
        "",
        f"![losses over steps]({metrics_log.PLOT})",
        "",
        "## Settings",
        "",
        *_settings(asdict(run)),
        "",
    ]
    (target / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _source_rows(sources: Mapping[str, Sequence[Dataset]], skipped: int) -> Iterator[str]:
    for stream, many in sources.items():
        for rows in many:
            yield (
                f"| {stream} | {rows.title} | {len(rows)} | {rows.weight:g} | {rows.duplicates} "
                f"| {rows.skipped.count} |"
            )
    yield ""
    if skipped:
        yield f"{skipped} rows were skipped: after truncation they had no token in the loss."
        yield ""


def _measured(folder: Path, metrics: Mapping[str, float]) -> list[str]:
    entries = [e for e in metrics_log.read(folder) if any(name in e for name in _LATEST)]
    rows = []
    for name in _LATEST:
        values = [entry[name] for entry in entries if name in entry]
        if values:
            tail = values[-max(1, len(values) // 10) :]
            rows.append(f"| {name} | {values[0]:.4f} | {sum(tail) / len(tail):.4f} |")
    table = ["| loss | first step | mean of the last tenth |", "| --- | --- | --- |", *rows]
    return [*table, "", *(f"- {name}: {value:.4f}" for name, value in sorted(metrics.items()))]


def _settings(table: Mapping[str, Any]) -> list[str]:
    lines = ["| setting | value |", "| --- | --- |"]
    for section, values in table.items():
        for key, value in values.items():
            if value not in (None, (), []):
                lines.append(f"| {section}.{key} | {_short(value)} |")
    return lines


def _short(value: Any) -> str:
    if isinstance(value, tuple | list) and value and isinstance(value[0], dict):
        return ", ".join(f"`{each.get('path')}`" for each in value)
    return f"`{value}`"
