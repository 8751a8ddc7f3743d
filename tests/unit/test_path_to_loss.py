"""From `tune` to a loss: ten calls over seven files, as docs/architecture.md lists them."""

import ast
import re
from itertools import pairwise

from tests.conftest import PROJECT

# Ray Tune stands between `run_trials`, which has `tuner_for` hand it over, and `run_trial`.
PATH = (
    ("tune.py", "tune"),
    ("sweeps/launch.py", "launch"),
    ("sweeps/sweep.py", "run_sweep"),
    ("sweeps/sweep.py", "run_trials"),
    ("trials/trainer.py", "run_trial"),
    ("engine/run.py", "fit"),
    ("engine/run.py", "_fit_stage"),
    ("engine/epoch.py", "train"),
    ("engine/epoch.py", "_step"),
    ("methods/acseg.py", "loss"),
)
CALLS, FILES = 10, 7


def function(file: str, name: str) -> ast.FunctionDef:
    """Finds a function or method of a file; there is one of that name."""
    tree = ast.parse((PROJECT / "usseg_ray" / file).read_text())
    (found,) = (
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name
    )
    return found


def called(node: ast.AST) -> set[str]:
    """Names what is called anywhere in a function."""
    calls = (one.func for one in ast.walk(node) if isinstance(one, ast.Call))
    return {f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in calls}


def test_every_function_of_the_path_calls_the_next_itself() -> None:
    for (file, name), (_, following) in pairwise(PATH):
        calls = called(function(file, name))
        if following == "run_trial":
            assert {"tuner_for", "fit"} <= calls
            handed = ast.walk(function("sweeps/tuning.py", "tuner_for"))
            assert following in {node.id for node in handed if isinstance(node, ast.Name)}
        else:
            assert following in calls, f"{file}: {name} does not call {following}"


def test_the_path_is_short() -> None:
    assert len(PATH) <= CALLS
    assert len({file for file, _ in PATH}) <= FILES


def test_the_page_lists_it() -> None:
    page = (PROJECT / "docs" / "architecture.md").read_text()
    listed = page.partition("## From a command to a loss")[2].partition("\n## ")[0]
    names = [name.rpartition(".")[2] for name in re.findall(r"`([^`]+)`", listed)]
    assert names == [name for _, name in PATH]
