"""The language model: weights, embeddings, generation and KV blocks."""

import logging

from gritlm import distribution

if _conflict := distribution.conflict():
    logging.getLogger(__name__).warning("%s", _conflict)
