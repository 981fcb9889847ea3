"""Command-line options of bulk work on a Ray cluster, and its results on the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gritlm.cli import logs, terminal
from gritlm.cli.cluster import CLUSTER, absolute, refuse_without_ray
from gritlm.cli.options import ModelOptions
from gritlm.errors import InputError

if TYPE_CHECKING:
    from gritlm.scale import EmbedReport, PartOptions, WorkerPool


@dataclass(frozen=True)
class BulkRayOptions:
    """Work on a Ray cluster."""

    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Use all devices of a Ray cluster. A killed run goes on with the same command.",
            rich_help_panel=CLUSTER,
        ),
    ] = False
    cluster: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="Address of the cluster; auto: that of this machine. Default: a Ray of this "
            "process alone.",
            rich_help_panel=CLUSTER,
        ),
    ] = None
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N or MIN:MAX",
            help="Number of workers that compute. Default: one for each GPU, or for each CPU on a "
            "cluster without GPUs.",
            rich_help_panel=CLUSTER,
        ),
    ] = None

    def require_ray(self) -> None:
        """Refuse options of a cluster without --ray.

        Raises:
            InputError: for the first option.
        """
        refuse_without_ray(self._given(), ray=self.ray)

    def _given(self) -> dict[str, Any]:
        return {"--address": self.cluster, "--workers": self.workers}

    def pool(self, threads: int | None) -> WorkerPool:
        """Return the workers.

        Args:
            threads: number of CPU threads of a worker; None for one.

        Raises:
            InputError: for a value of ``--workers`` that is no number and no range.
        """
        from gritlm.scale import WorkerPool

        cpus = threads or 1
        if self.workers is None:
            return WorkerPool(cpus=cpus)
        least, _, most = self.workers.partition(":")
        if not (least.isdecimal() and (most or least).isdecimal()):
            raise InputError(f"--workers {self.workers}; expected a number or a range such as 1:8")
        return WorkerPool(int(least), int(most or least), cpus)


@dataclass(frozen=True)
class BulkInputOptions(BulkRayOptions):
    """Files of bulk embedding, and their parts."""

    input: Annotated[
        list[str] | None,
        typer.Option(
            help="Parquet, JSON Lines or text file, or a folder of them; a path or an address such "
            "as s3://bucket/folder. May be repeated.",
            rich_help_panel=CLUSTER,
        ),
    ] = None
    id_field: Annotated[
        str | None,
        typer.Option(
            help="Field or column with the id of a row. Default: id or _id, else file and row.",
            rich_help_panel=CLUSTER,
        ),
    ] = None
    part_rows: Annotated[
        int,
        typer.Option(
            min=1,
            help="Rows of a Parquet file that are committed together.",
            rich_help_panel=CLUSTER,
        ),
    ] = 1024
    part_bytes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Bytes of a JSON Lines or text file that are committed together.",
            rich_help_panel=CLUSTER,
        ),
    ] = 512 * 1024
    reject_long: Annotated[
        bool,
        typer.Option(
            "--reject-long",
            help="Leave out texts of more than --max-length tokens instead of truncating them.",
            rich_help_panel=CLUSTER,
        ),
    ] = False

    def _given(self) -> dict[str, Any]:
        return {
            **super()._given(),
            "--input": ", ".join(self.input) if self.input else None,
            "--id-field": self.id_field,
            "--reject-long": self.reject_long or None,
        }

    def parts(self, field: str) -> PartOptions:
        """Return size of the parts and columns.

        Args:
            field: field or column with the text.
        """
        from gritlm.scale import PartOptions

        return PartOptions(self.part_rows, self.part_bytes, field, self.id_field)


def model_arguments(model: ModelOptions) -> dict[str, Any]:
    """Return the arguments of the model for workers, with the whole path of a local folder.

    Args:
        model: options of the model.
    """
    model.require_one_process()
    found = {name: value for name, value in model.arguments().items() if value is not None}
    folders = ("model_name_or_path", "adapter", "embed_adapter")
    return found | {name: absolute(found[name]) for name in folders if name in found}


def write_report(report: EmbedReport) -> None:
    """Write the result of a bulk job to stdout, and its warnings to stderr.

    Args:
        report: the result.
    """
    if report.cut:
        logs.write_message("truncated", f"{report.cut:,} texts are longer than the maximum")
    if report.rejected:
        logs.write_message(
            "rejected", f"{report.rejected:,} rows; the reasons are in {report.output}/_rejected"
        )
    speed = report.tokens / report.seconds if report.seconds else 0.0
    resumed = f" ({report.resumed} of them by earlier runs)" if report.resumed else ""
    terminal.write(
        f"embedded {report.rows:,} rows in {report.parts} parts{resumed} in "
        f"{report.seconds:.1f} s, {speed:,.0f} tokens a second; the vectors are in "
        f"{report.output}\n"
    )
