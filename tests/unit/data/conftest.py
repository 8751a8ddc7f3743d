from pathlib import Path

import pytest


@pytest.fixture(params=["path", "file URI"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    root = tmp_path / "set"
    return str(root) if request.param == "path" else root.as_uri() + "/"
