"""Adapters of any kind that PEFT can merge, wrapped around the layers of a model by PEFT."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gritlm.errors import ModelError, one_line
from gritlm.lm.hub import lora

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PeftAdapter:
    """An adapter whose layers are those of PEFT."""

    adapter: str
    peft_model: Any

    @classmethod
    def attach(
        cls, model: Any, adapter: str, config: dict[str, Any], tensors: Mapping[str, Tensor]
    ) -> PeftAdapter:
        """Wrap the layers of a model, in place.

        Args:
            model: the base model.
            adapter: folder or hub id.
            config: its configuration.
            tensors: its tensors.

        Raises:
            ModelError: for an adapter of another base, of a kind that cannot be merged, or with
                tensors that PEFT would ignore.
        """
        from peft import PeftModel

        name = lora.describe(model)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            peft_model = PeftModel.from_pretrained(model, adapter)
        if not hasattr(peft_model, "merge_and_unload"):
            raise ModelError(
                f"{adapter}: an adapter of the type {config.get('peft_type')!r} has no weights to "
                "merge; gritlm takes LoRA and other adapters that can be merged"
            )
        # FutureWarning and DeprecationWarning are for peft's authors.
        messages = [one_line(w.message) for w in caught if issubclass(w.category, UserWarning)]
        if any("missing adapter keys" in message for message in messages):
            why = "the adapter has nothing for some of its layers"
            raise lora.foreign(adapter, config, name, why)
        _require_read(peft_model, adapter, tensors)
        for message in dict.fromkeys(messages):
            log.warning("%s: peft warns: %s", adapter, message)
        return cls(adapter, peft_model)

    @contextmanager
    def unmerged(self) -> Iterator[None]:
        yield  # PEFT wraps the layers in place

    def merged(self, _: Any) -> Any:
        """Merge the adapter and return the model without the wrappers."""
        return self.peft_model.merge_and_unload(safe_merge=True)

    def attached(self, _: Any) -> Any:
        """Return the model with the wrapped layers."""
        return self.peft_model.get_base_model()


def _require_read(peft_model: Any, adapter: str, tensors: Iterable[str]) -> None:
    """Refuse an adapter with tensors that PEFT would ignore."""
    from peft import get_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about saving
        known = get_peft_model_state_dict(peft_model, save_embedding_layers=True)
    if unread := sorted(set(tensors) - set(known) - set(peft_model.state_dict())):
        raise ModelError(
            f"{adapter}: {len(unread)} of its tensors have no place in the layers that its "
            f"{lora.CONFIG_FILE} names ({one_line(', '.join(unread[:3]))}); restore the file"
        )
