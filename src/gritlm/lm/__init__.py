"""The model room: weights, views, embeddings, key/value blocks and text."""

import logging

from gritlm import distribution

if _conflict := distribution.conflict():
    logging.getLogger(__name__).warning("%s", _conflict)
