"""Whatever settings and spaces are asked for: a plan, or the product's own error."""

import json
import math
from contextlib import suppress
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.values import json_values, often
from usseg_ray import methods
from usseg_ray.core.config import build_config, known_keys
from usseg_ray.core.errors import UserError
from usseg_ray.core.sources import parse_yaml
from usseg_ray.sweeps.space import KINDS, check_space, parse_assignments, space_of


@often
@given(tree=json_values | st.dictionaries(st.sampled_from(("fixed", "space")), json_values))
def test_search_spaces(tree: object) -> None:
    with suppress(UserError):
        space_of(json.loads(json.dumps(tree)), Path("x.yaml"))


@often
@given(value=st.text() | json_values.map(json.dumps))
def test_assignments(value: str) -> None:
    with suppress(UserError):
        parse_assignments([f"method.gamma={value}"])


CONFIG = methods.get("stego").Config
SETTINGS = sorted(known_keys(CONFIG))
odd_numbers = st.sampled_from([0, -1, 10**400, 2**63, 1e308, math.inf, math.nan, "1e999", "0x1p-2"])
settings_of = json_values | odd_numbers


@often
@given(key=st.sampled_from(SETTINGS), value=settings_of)
def test_values_of_settings(key: str, value: object) -> None:
    with suppress(UserError):
        build_config(CONFIG, [parse_assignments([f"{key}={json.dumps(value)}"])])


@often
@given(
    fixed=st.dictionaries(st.sampled_from(SETTINGS), settings_of, max_size=2),
    space=st.dictionaries(
        st.sampled_from(SETTINGS),
        st.dictionaries(st.sampled_from(KINDS), st.lists(settings_of, max_size=3), max_size=2),
        max_size=2,
    ),
)
def test_spaces_of_known_keys(fixed: object, space: object) -> None:
    with suppress(UserError):
        check_space(space_of({"fixed": fixed, "space": space}, Path("x.yaml")), CONFIG, [{}])


@often
@given(text=st.text(alphabet="{}[]:,-&*!|>#'\"?%@ \n\tab01.e\\", max_size=40) | st.text())
def test_yaml_texts(text: str) -> None:
    with suppress(UserError):
        space_of(parse_yaml(text, "x.yaml"), Path("x.yaml"))
