"""Models and stores of components in saved pipelines: names and addresses, not objects."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from gritlm.errors import InputError
from gritlm.integrations.local_models import ModelLike
from gritlm.integrations.rag_client import RagClient
from gritlm.integrations.stores import PassageStore
from gritlm.lm.gritlm import GritLM
from gritlm.lm.sampling import SamplingParams
from gritlm.rag.options import AnswerOptions
from gritlm.rag.reuse.recompute import Recompute


def saved_model(model: ModelLike) -> str | None:
    """Return the name of a model for a saved pipeline.

    Raises:
        InputError: for a model in memory, which a file cannot hold.
    """
    if isinstance(model, GritLM):
        raise InputError(
            f"the component has the model {model.source} in memory, which is not written to a "
            "file; pass its name or folder to the component instead"
        )
    return None if model is None else str(model)


def saved_store(store: PassageStore) -> dict[str, Any]:
    """Return the address of a store on a server for a saved pipeline.

    Raises:
        InputError: for an engine in this process, or a client with a key: keys stay out of files.
    """
    if not isinstance(store, RagClient):
        raise InputError(
            f"the component has a {type(store).__name__} in memory, which is not written to a "
            "file; use RagClient(base_url) with gritlm serve instead"
        )
    if store.api_key is not None:
        raise InputError(
            "the client of the component has a key, which is not written to a file; save the "
            "pipeline with a client without api_key"
        )
    return asdict(store)


def saved_options(options: AnswerOptions) -> dict[str, Any]:
    """Return settings of an answer as plain values."""
    values = asdict(options)
    return values | {"sampling": values["sampling"] | {"stop": list(options.sampling.stop)}}


def restored_options(values: dict[str, Any]) -> AnswerOptions:
    """Return the settings of plain values."""
    sampling = values["sampling"]
    recompute = values["recompute"]
    return AnswerOptions(
        **(
            values
            | {
                "sampling": SamplingParams(**(sampling | {"stop": tuple(sampling["stop"])})),
                "recompute": None if recompute is None else Recompute(**recompute),
            }
        )
    )


def restored_store(fields: dict[str, Any]) -> RagClient:
    """Return the client of a saved address."""
    return RagClient(**fields)
