"""`dataset.json`: what the owner of a folder says about its classes, as people write it."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from usseg_ray.core.config import Settings
from usseg_ray.core.errors import UserError
from usseg_ray.core.sources import check_name, load_json
from usseg_ray.data.manifest import Palette
from usseg_ray.prepare.meaning import Colour

FILE = "dataset.json"

DEFAULT_IGNORE_INDEX = 255

# What pydantic calls an error -> what to say of a JSON file.
_WORDS = {
    "tuple_type": "must be a list",
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "list_type": "must be a list",
    "string_type": "must be text in quotes",
    "string_too_short": "must not be empty",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "missing": "is missing: a colour is three numbers from 0 to 255",
    "too_short": "must not be empty",
    "too_long": "has too many numbers: a colour is three from 0 to 255",
}


# What other tools call a key.
_SYNONYMS = {
    "labels": "classes",
    "categories": "classes",
    "id2label": "classes",
    "colors": "palette",
    "colours": "palette",
    "colormap": "palette",
}


class _Content(Settings):
    """What the file may say; keys that are not listed here are the owner's own notes."""

    model_config = Settings.model_config | {"extra": "ignore"}

    name: str | None = Field(None, min_length=1)
    classes: tuple[str, ...] = ()
    things: tuple[str, ...] = ()
    ignore_index: int = Field(DEFAULT_IGNORE_INDEX, ge=0, le=65535)
    palette: tuple[Colour, ...] | None = None
    void_colour: Colour | None = None

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if not all(name.strip() for name in classes):
            raise ValueError("a class has no name")
        twice = sorted({name for name in classes if classes.count(name) > 1})
        if twice:
            raise ValueError(f"class {twice[0]!r} is named twice")
        return classes

    @field_validator("ignore_index", mode="before")
    @classmethod
    def _no_truth(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("must be a whole number")  # noqa: TRY004 (pydantic wants it)
        return value

    @field_validator("palette")
    @classmethod
    def _bytes(cls, palette: Palette | None) -> Palette | None:
        if palette and not all(0 <= value <= 255 for colour in palette for value in colour):
            raise ValueError("a colour is three numbers from 0 to 255")
        return palette

    @model_validator(mode="after")
    def _agree(self) -> "_Content":
        strange = [name for name in self.things if name not in self.classes]
        if strange:
            raise ValueError(f"'things' names {strange[0]!r}, which is no class")
        if self.palette is not None and len(self.palette) != len(self.classes):
            raise ValueError(
                f"'palette' has {len(self.palette)} colours for {len(self.classes)} classes"
            )
        self._check_colours()
        if 0 < self.ignore_index < len(self.classes):
            both = self.classes[self.ignore_index]
            raise ValueError(f"'ignore_index' {self.ignore_index} is also class {both!r}")
        return self

    def _check_colours(self) -> None:
        """Refuses a colour of two meanings."""
        whose = {} if self.void_colour is None else {self.void_colour: "void"}
        for name, colour in zip(self.classes, self.palette or (), strict=False):
            other = whose.setdefault(colour, name)
            if other != name:
                raise ValueError(f"'palette' gives {name!r} the colour of {other!r}: {colour}")


@dataclass(frozen=True)
class SetDescription:
    """What is known of a set's classes.

    Attributes:
        name: What the set is called, or `None`.
        classes: Names, by index; empty if they are not named.
        things: Those that are countable objects.
        ignore_index: Class index of pixels without a class.
        palette: RGB of each class, or `None`.
        class_of: Label value -> class index or `ignore_index`; `None` where they are the same.
        colours: Colour in painted labels -> the same.
        notes: Lines for the user.
    """

    name: str | None = None
    classes: tuple[str, ...] = ()
    things: tuple[str, ...] = ()
    ignore_index: int = DEFAULT_IGNORE_INDEX
    palette: Palette | None = None
    class_of: Mapping[int, int] | None = None
    colours: Mapping[Colour, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_set_description(path: Path, classes: str | None = None) -> SetDescription:
    """Reads a `dataset.json`.

    Args:
        path: The file; where there is none, nothing is said.
        classes: `--classes`, which wins over the file: names with commas between them, or
            `VALUE=NAME`.

    Raises:
        UserError: It is no JSON, or says what cannot be; names the key.
    """
    content = load_json(path) if path.exists() else {}
    if classes is not None:
        content = _as_object(path, content) | {"classes": _named_classes(classes)}
    return describe_set(content, path)


def describe_set(content: object, path: Path) -> SetDescription:
    """Checks what a `dataset.json` holds.

    Args:
        content: Any JSON value.
        path: Of the file, for messages.

    Raises:
        UserError: It says what cannot be; names the key.
    """
    told = _as_object(path, content)
    _check_keys(path, told)
    values, told = _values(path, told)
    try:
        known = _Content.model_validate(_with_colours(told))
    except ValidationError as error:
        raise UserError(f"{path}: {_worded(error.errors()[0])}.") from None
    if known.name is not None:
        check_name(known.name, f"{path}: key 'name':")
    return _meant(known, values)


def _meant(known: _Content, values: Mapping[int, int] | None) -> SetDescription:
    ignore, notes = known.ignore_index, tuple[str, ...]()
    if values is not None:
        void = DEFAULT_IGNORE_INDEX if ignore < len(known.classes) else ignore
        values = {ignore: void, **values}
        ignore = void
    elif ignore == 0:
        count = len(known.classes) or DEFAULT_IGNORE_INDEX
        ignore = max(DEFAULT_IGNORE_INDEX, count)
        values = {0: ignore, **{value: value - 1 for value in range(1, count + 1)}}
        first = f", {known.classes[0]!r}" if known.classes else ""
        notes = (f"ignore_index 0: the value 0 is void, and 1 is the first class{first}.",)
    colours = {colour: index for index, colour in enumerate(known.palette or ())}
    if known.void_colour is not None:
        colours[known.void_colour] = ignore
    return SetDescription(
        known.name, known.classes, known.things, ignore, known.palette, values, colours, notes
    )


def _as_object(path: Path, content: object) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f'{path}: must be an object, such as {{"classes": ["cow", "grass"]}}.')
    if {"images", "annotations"} <= content.keys():
        raise UserError(
            f"{path}: holds COCO annotations, not a description of classes. Name it "
            "annotations.json, or say --labels FILE.json."
        )
    return content


def _check_keys(path: Path, told: Mapping[str, Any]) -> None:
    """Refuses keys that are nearly ones that are missing; others, such as notes, are their own."""
    missing = _Content.model_fields.keys() - told.keys()
    for key in told.keys() - _Content.model_fields.keys():
        known = _SYNONYMS.get(key.casefold())
        near = difflib.get_close_matches(key.casefold(), missing, n=1, cutoff=0.65)
        if known in missing:
            near = [known]
        if near:
            raise UserError(f"{path}: unknown key {key!r}; did you mean {near[0]!r}?")


def _values(path: Path, told: dict[str, Any]) -> tuple[dict[int, int] | None, dict[str, Any]]:
    """Takes apart classes that are given by label value; values 0, 1, ... are a plain list."""
    classes = told.get("classes")
    if not isinstance(classes, dict):
        return None, told
    numbers = {key: int(key) for key in classes if re.fullmatch(r"[0-9]{1,5}", key)}
    wrong = [key for key in classes if numbers.get(key, 2**16) >= 2**16]
    if wrong or len(set(numbers.values())) < len(classes):
        raise UserError(
            f"{path}: key 'classes': {(wrong or sorted(numbers))[0]!r} is no label value, a number "
            "from 0 to 65535 that stands there once."
        )
    names = [classes[key] for key in sorted(classes, key=numbers.__getitem__)]
    order = sorted(numbers.values())
    plain = order == list(range(len(order)))
    values = None if plain else {value: index for index, value in enumerate(order)}
    return values, told | {"classes": names}


def _named_classes(text: str) -> list[str] | dict[str, str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    pairs = [part.partition("=") for part in parts]
    if not any(sign for _, sign, _ in pairs):
        return parts
    if not all(sign for _, sign, _ in pairs):
        raise UserError(f"--classes {text}: expected NAME,NAME,... or VALUE=NAME,VALUE=NAME,...")
    return {value.strip(): name.strip() for value, _, name in pairs}


def _with_colours(told: Mapping[str, Any]) -> dict[str, Any]:
    """Reads colours that are written as #rrggbb."""
    palette = told.get("palette")
    read = dict(told)
    if isinstance(palette, list):
        read["palette"] = [_colour(colour) for colour in palette]
    if "void_colour" in told:
        read["void_colour"] = _colour(told["void_colour"])
    return read


def _colour(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return tuple(bytes.fromhex(value[1:]))
    return value


def in_words(error: ErrorDetails) -> str:
    """Says what is wrong with a value of a JSON file, in words of the file."""
    words = _WORDS.get(error["type"])
    if words is None:
        return error["msg"].removeprefix("Value error, ")
    return words.format(**error.get("ctx", {}))


def _worded(error: ErrorDetails) -> str:
    key = ".".join(str(part) for part in error["loc"])
    reason = in_words(error)
    if reason.startswith("'"):
        return reason
    return f"key {key!r}: {reason}" if key else reason
