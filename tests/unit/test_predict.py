from pathlib import Path

import pytest

from usseg_ray.core.errors import UserError
from usseg_ray.outputs.run import PredictionRun
from usseg_ray.outputs.work import ImageOutcome
from usseg_ray.predict import located, summary_lines


def test_what_was_done_is_said_in_lines() -> None:
    found = PredictionRun(
        "out", 8, 2, [ImageOutcome(name="x.jpg", reason="broken")], 4.0, ("a note",)
    )
    assert summary_lines(found) == [
        "a note",
        "1 image cannot be used: out/quarantine.jsonl",
        "8 images segmented, 2 were there, 2.0 images/s: out",
    ]
    assert summary_lines(PredictionRun("out", kept=3)) == ["0 images segmented, 3 were there: out"]


def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        located(str(tmp_path / "gone"))
