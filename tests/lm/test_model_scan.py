"""Import of transformers: the files of its models are searched once, and nothing stays patched."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import json
import gritlm.lm.hub.vocabulary
import transformers
from pathlib import Path
from transformers.models.llama import LlamaConfig
from transformers.utils.import_utils import create_import_structure_from_path as scan
folder = Path(transformers.__file__).parent / "models"
print(json.dumps({
    "folders": sum(each.is_dir() for each in folder.iterdir()),
    "scanned": scan.cache_info().misses,
    "names": [transformers.AutoModel.__name__, LlamaConfig.__name__],
}))
"""


def test_the_models_are_searched_once():
    """In a new process, since this one has imported them."""
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    assert found["folders"] > 100
    assert found["scanned"] < 1.5 * found["folders"]
    assert found["names"] == ["AutoModel", "LlamaConfig"]
