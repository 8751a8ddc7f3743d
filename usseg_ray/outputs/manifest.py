"""What stands in a folder of outputs: by which model, names and options, and which images are done.

`predict.json` says what made them. Workers note what they wrote in small files of JSON lines, each
whole or not there, so that a run that was ended goes on where it was; at the end they become one.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, Self

from pyarrow import fs as pafs
from pydantic import TypeAdapter, ValidationError

from usseg_ray import __version__
from usseg_ray.core.config import Settings
from usseg_ray.core.errors import UserError
from usseg_ray.core.files import UNFINISHED, resolve, write_whole_at
from usseg_ray.models.description import Description
from usseg_ray.outputs.base import PARTS, Record

HEADER = "predict.json"

NAMES = "names.yaml"

_DONE = f"{PARTS}/done"


class Header(Settings):
    """What outputs hang on.

    Attributes:
        version: Of the folder's format.
        usseg_ray: The version that wrote it.
        model: Digest of the model's weights and of how it shows images.
        names: Digest of names, colours and merges.
        options: What else they hang on.
        images: Folder of the images; empty where an earlier version did not say.
    """

    version: int = 1
    usseg_ray: str = __version__
    model: str
    names: str
    options: dict[str, int | float | str | None]
    images: str = ""

    @classmethod
    def of(
        cls,
        description: Description,
        options: dict[str, int | float | str | None],
        images: str = "",
    ) -> Self:
        """Says what the outputs of a model hang on."""
        told = description.model_dump(mode="json", exclude={"names", "scores", "usseg_ray"})
        names = description.names.text()
        return cls(
            model=_digest(json.dumps(told, sort_keys=True, default=str)),
            names=_digest(names),
            options=options,
            images=images,
        )

    def differs(self, other: "Header") -> str:
        """Says in which way another header is another; empty where it is not."""
        if self.model != other.model:
            return "another model"
        if self.names != other.names:
            return "the same model with other names"
        if self.options != other.options:
            return f"other options ({_told(self.options)}; now {_told(other.options)})"
        if self.images and other.images and self.images != other.images:
            return f"the same model for the images of {self.images}"
        return ""


class Folder:
    """A folder of outputs.

    Args:
        place: Folder or URI.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.filesystem, self.root = resolve(place)

    def path(self, name: str) -> str:
        """Says where a file lies in its file system."""
        return f"{self.root}/{name}"

    def header(self) -> Header | None:
        """Reads what made the outputs; `None` where nothing did yet.

        Raises:
            UserError: The file is not what was written.
        """
        try:
            with self.filesystem.open_input_stream(self.path(HEADER)) as stream:
                return Header.model_validate_json(stream.read())
        except FileNotFoundError:
            return None
        except ValidationError:
            raise UserError(
                f"{self.place}/{HEADER} is damaged. Name another folder, or --overwrite."
            ) from None

    def begin(self, header: Header, names: str) -> None:
        """Writes what makes the outputs, and their names beside."""
        self.write(NAMES, names)
        self.write(HEADER, header.model_dump_json(indent=1))

    def write(self, name: str, content: Any) -> None:  # noqa: ANN401 (core.files.Content)
        """Writes a file whole or not at all."""
        write_whole_at(self.filesystem, self.path(name), content)

    def read(self, name: str) -> bytes:
        """Reads a file."""
        with self.filesystem.open_input_stream(self.path(name)) as stream:
            data: bytes = stream.read()
            return data

    def note(self, records: Iterable[Record]) -> None:
        """Notes images that were written."""
        self.write(f"{_DONE}/{uuid.uuid4().hex}.jsonl", _lines(records))

    def done(self) -> dict[str, Record]:
        """Reads which images are done, by their names; two notes of one have formats each."""
        found: dict[str, Record] = {}
        for path in self._notes():
            with self.filesystem.open_input_stream(path) as stream:
                for line in stream.read().splitlines():
                    record = _RECORD.validate_json(line)
                    found[record.name] = merged(found.get(record.name), record)
        return found

    def join(self, records: Iterable[Record]) -> None:
        """Makes one file of all notes."""
        before = list(self._notes())
        self.note(records)
        for path in before:
            self.filesystem.delete_file(path)

    def sizes(self) -> dict[str, int]:
        """Lists all files with their bytes, by their paths in the folder."""
        return {name: info.size for name, info in self._files("")}

    def clear(self) -> None:
        """Removes what the manifest knows of, and the manifest."""
        there = self.sizes()
        known = {name for record in self.done().values() for name in record.files.values()}
        own = {HEADER, NAMES, *(name for name in there if name.startswith(f"{PARTS}/"))}
        for name in (known | own) & there.keys():
            self.filesystem.delete_file(self.path(name))

    def sweep(self) -> None:
        """Removes what a killed writer left unfinished."""
        for name, _ in self._files(""):
            if name.endswith(UNFINISHED):
                self.filesystem.delete_file(self.path(name))

    def _notes(self) -> Iterator[str]:
        for name, _ in self._files(_DONE):
            if name.endswith(".jsonl"):
                yield self.path(name)

    def _files(self, below: str) -> Iterator[tuple[str, pafs.FileInfo]]:
        folder = self.path(below).rstrip("/")
        selector = pafs.FileSelector(folder, allow_not_found=True, recursive=True)
        for info in self.filesystem.get_file_info(selector):
            if info.type == pafs.FileType.File:
                yield info.path[len(self.root) :].lstrip("/"), info


def merged(before: Record | None, record: Record) -> Record:
    """Joins what was noted of an image at two times; of another file there is nothing to keep."""
    if before is None or (before.key, before.stamp) != (record.key, record.stamp):
        return record if before is None or before.stamp[1] <= record.stamp[1] else before
    return record.model_copy(update={"files": before.files | record.files})


_RECORD = TypeAdapter(Record)


def _lines(records: Iterable[Record]) -> str:
    return "".join(record.model_dump_json() + "\n" for record in records)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _told(options: dict[str, int | float | str | None]) -> str:
    said = ", ".join(f"--{name} {value}" for name, value in options.items() if value is not None)
    return said or "none"
