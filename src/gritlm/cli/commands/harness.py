"""``gritlm lm-eval`` and ``gritlm mteb``: the command lines of these harnesses, which know gritlm.

Neither harness finds models of other packages by itself, so a model is registered first.
"""

from __future__ import annotations

from typing import Any

import typer

ANY_OPTION: dict[str, Any] = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}


def lm_eval(context: typer.Context) -> None:
    """Run lm-eval, where ``--model gritlm`` is a model of gritlm."""
    from gritlm.evaluation import harnesses

    harnesses.require("generation")
    from gritlm.evaluation.generation.lm_eval_command import main

    main(context.args)


def mteb(context: typer.Context) -> None:
    """Run mteb, where ``run -m`` takes a folder, default or base too."""
    from gritlm.evaluation import harnesses

    harnesses.require("embedding")
    from gritlm.evaluation.embedding.mteb_command import main

    main(context.args)
