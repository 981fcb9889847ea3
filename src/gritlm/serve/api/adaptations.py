"""``/v1/adaptations``: reports of ``gritlm adapt`` on the adapters of the server."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from fastapi import APIRouter, Response
from pydantic import BaseModel, ValidationError

from gritlm.errors import one_line
from gritlm.serve.api.streaming import json_response
from gritlm.serve.http.paths import ADAPTATIONS
from gritlm.serve.schemas.adaptations import (
    AdaptationListResponse,
    AdaptationObject,
    AdaptationVerdict,
    RunState,
)
from gritlm.serve.served_models import ServedModel
from gritlm.serve.service import Service
from gritlm.serve.strict_json import new_router

# Files in the folder of an adapter, as gritlm adapt writes them.
VERDICT = "adapt/verdict.json"
STATE = "adapt/adapt.json"
MAX_BYTES = 2**20  # of a file

M = TypeVar("M", bound=BaseModel)


def routes(service: Service) -> APIRouter:
    """Return the route of reports."""
    router = new_router(tags=["model"])

    @router.get(ADAPTATIONS, response_model=AdaptationListResponse, summary="List adaptations")
    async def adaptations() -> Response:
        """List the reports of `gritlm adapt` on the models whose adapters it made: the verdict,
        the scores before and after, and the counts of each step. Models without a report are left
        out."""
        models = {id(each): each for each in service.models.values()}.values()
        found = await service.run_in_worker_thread(_reports, models)
        return json_response(
            {"object": "list", "data": [each.model_dump(mode="json") for each in found]}
        )

    return router


def _reports(models: Iterable[ServedModel]) -> list[AdaptationObject]:
    found = []
    for served in models:
        folder = served.model.adapter
        if folder is not None and (Path(folder) / VERDICT).is_file():
            found.append(report(served.names[0], Path(folder)))
    return found


def report(name: str, folder: Path) -> AdaptationObject:
    """Return the report in the folder of an adapter; a damaged file is named as its problem.

    Args:
        name: name of the model.
        folder: folder of its adapter.
    """
    try:
        verdict = _read(folder, VERDICT, AdaptationVerdict)
        steps = _read(folder, STATE, RunState).steps
    except _DamagedFileError as error:
        return AdaptationObject(
            id=name, object="adaptation", verdict=None, steps={}, problem=str(error)
        )
    return AdaptationObject(
        id=name, object="adaptation", verdict=verdict, steps=steps, problem=None
    )


class _DamagedFileError(ValueError):
    """A file of a run that cannot be shown."""


def _read(folder: Path, name: str, model: type[M]) -> M:
    try:
        with (folder / name).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError:
        raise _DamagedFileError(f"{name} cannot be read") from None
    if len(content) > MAX_BYTES:
        raise _DamagedFileError(f"{name} has over {MAX_BYTES:,} bytes")
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = one_line(".".join(map(str, first["loc"][:2])), limit=80)
        raise _DamagedFileError(
            f"{name} is damaged{f' at {place}' if place else ''}; give the command of the "
            "adaptation again"
        ) from None
