"""What is heavy is imported when it is first used, and not before."""

import subprocess
import sys

import pytest

from tests.conftest import PROJECT

PROGRAM = """
import sys
from usseg_ray.features import zoo
before = [name for name in ("timm", "huggingface_hub") if name in sys.modules]
used = zoo.huggingface_hub.__name__
print(before, used, "huggingface_hub" in sys.modules, "timm" in sys.modules)
"""


def test_nothing_is_imported_until_it_is_used_and_then_that_alone() -> None:
    told = subprocess.check_output([sys.executable, "-c", PROGRAM], cwd=PROJECT, text=True)
    assert told == "[] huggingface_hub True False\n"


def test_what_a_module_lacks_is_missed_as_ever() -> None:
    from usseg_ray.features import zoo

    with pytest.raises(AttributeError, match="no_such_model"):
        _ = zoo.huggingface_hub.no_such_model
