"""Questions that are set aside, and the fusion settings that an adapted model gets from them."""

from __future__ import annotations

import json
import shutil

from gritlm.adapt import fusion_step, report_tasks
from gritlm.adapt.run_folder import RunFolder
from tests.adapt import made


def test_a_tenth_of_the_answered_questions_is_set_aside():
    rows = [{"n": n, "answer": "x" if n % 2 else None, "negatives": ["p"]} for n in range(500)]
    kept, aside = fusion_step.set_aside(rows, seed=1)
    assert (len(kept), len(aside)) == (475, 25)
    assert all(row["answer"] for row in aside)
    assert not {row["n"] for row in kept} & {row["n"] for row in aside}
    assert fusion_step.set_aside(rows, seed=1) == (kept, aside)
    assert fusion_step.set_aside(rows[:300], seed=1) == (rows[:300], [])


def test_the_settings_are_written_into_the_folder_of_the_model(tmp_path, model_folder):
    root = tmp_path / "run"
    shutil.copytree(model_folder, root)
    folder = RunFolder(root)
    folder.write(report_tasks.CALIBRATION, [])
    assert fusion_step.calibrate_adapter(folder, "cpu") == {"questions": 0}
    texts = [made.text(animal, number) for number, animal in enumerate(made.ANIMALS[:24])]
    rows = [
        {"question": f"How long does it sleep in {n}?", "answers": ["x"], "documents": [a, b]}
        for n, (a, b) in enumerate(zip(texts, [*texts[1:], texts[0]], strict=True))
    ]
    folder.write(report_tasks.CALIBRATION, rows)
    assert fusion_step.calibrate_adapter(folder, "cpu")["questions"] == 24
    settings = json.loads((root / "gritlm.json").read_text())
    assert set(settings["fusion"]) == {"cosine", "margin", "absent"}
