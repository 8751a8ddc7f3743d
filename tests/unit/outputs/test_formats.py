import importlib.util
import re

import pytest
from typer.testing import CliRunner

from usseg_ray.core.errors import UserError
from usseg_ray.outputs.formats import FORMATS, parse_formats
from usseg_ray.predict import app


def test_formats_are_said_with_commas_and_each_is_written_once() -> None:
    assert parse_formats("coco, png,coco") == ("png", "coco")
    with pytest.raises(UserError, match="'jpeg'"):
        parse_formats("png,jpeg")
    with pytest.raises(UserError, match="names no format"):
        parse_formats(" ,")


def test_what_an_extra_brings_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", {}.get)
    with pytest.raises(UserError, match=r"--save geotiff needs rasterio: .*usseg-ray\[geo\]"):
        parse_formats("geotiff")
    assert parse_formats("png") == ("png",)


def test_the_help_names_all_formats() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    shown = re.sub(r"-\s+", "-", shown)  # a line may end in a name
    assert all(re.search(rf"\b{name}\b", shown) for name in FORMATS)
