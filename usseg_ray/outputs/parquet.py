"""Shares of every image: a table of one row an image and output, of records alone."""

from collections.abc import Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from usseg_ray.models.names import Names
from usseg_ray.outputs.base import Format, OpenPart, Record

SHARES = "shares.parquet"

SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("cluster", pa.int32()),
        ("name", pa.string()),
        ("pixels", pa.int64()),
        ("share", pa.float64()),
        ("confidence", pa.float64()),
    ]
)


def gather(records: Sequence[Record], names: Names, _: OpenPart, stream: BinaryIO) -> None:
    """Writes the table; outputs that an image has not have no row, ignored pixels count in none."""
    rows = [
        {
            "image": record.name,
            "height": record.height,
            "width": record.width,
            "cluster": output,
            "name": names.clusters[output].name,
            "pixels": pixels,
            "share": pixels / (record.height * record.width),
            "confidence": record.confidence[output],
        }
        for record in records
        for output, pixels in sorted(record.pixels.items())
    ]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), stream)


FORMAT = Format(None, gathered={SHARES: gather}, bytes_per_pixel=0)
