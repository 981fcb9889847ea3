"""Models of ``/v1/adaptations``, and of the files of a run of ``gritlm adapt`` that it shows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gritlm.serve.schemas.base import ResponseModel

MAX_ENTRIES = 200  # tasks of a report, or steps, or counts of a step

Name = Annotated[str, Field(max_length=200)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class ScoreEstimate(BaseModel):
    """Difference of a score in points, with its 95% interval; null where it is unknown."""

    model_config = ConfigDict(strict=True)

    value: Number
    low: Number | None
    high: Number | None


class TaskDifference(BaseModel):
    """Score of a task before and after the adaptation, in percent."""

    model_config = ConfigDict(strict=True)

    task: Name
    before: Number
    after: Number
    estimate: ScoreEstimate


class AdaptationVerdict(BaseModel):
    """``verdict.json`` of a run."""

    model_config = ConfigDict(strict=True)

    decision: Literal["use", "do not use", "undecided"]
    sentence: str = Field(max_length=4000)
    differences: list[TaskDifference] = Field(max_length=MAX_ENTRIES)


class AdaptationStep(BaseModel):
    """A finished step in ``adapt.json``, without the digest of its inputs."""

    model_config = ConfigDict(strict=True)

    counts: dict[Name, int] = Field(max_length=MAX_ENTRIES)
    seconds: Annotated[Number, Field(ge=0)]


class RunState(BaseModel):
    """``adapt.json`` of a run."""

    model_config = ConfigDict(strict=True)

    steps: dict[Name, AdaptationStep] = Field(max_length=MAX_ENTRIES)


class AdaptationObject(ResponseModel):
    """Report of the adaptation that made the adapter of a model."""

    id: str = Field(description="Name of the model.")
    object: Literal["adaptation"]
    verdict: AdaptationVerdict | None = Field(description="Null if a file of the run is damaged.")
    steps: dict[str, AdaptationStep]
    problem: str | None = Field(description="The file that is damaged, and how; usually null.")


class AdaptationListResponse(ResponseModel):
    object: Literal["list"]
    data: list[AdaptationObject]
