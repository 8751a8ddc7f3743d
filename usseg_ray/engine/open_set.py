"""A prepared set as one process reads it: where it lies, how its rows come, what is stored."""

from dataclasses import dataclass, field

from usseg_ray.data.manifest import Manifest
from usseg_ray.data.reader import KeptPasses
from usseg_ray.data.reading import Stream, stream_here
from usseg_ray.features.featuriser import FeatureFinder


@dataclass(frozen=True)
class OpenSet:
    """A prepared set, opened for one run, or for several that look at the same images.

    Attributes:
        root: URI of the set.
        manifest: Its manifest, or one of a part of it.
        stream: How this worker's rows are read.
        stored: Finds features that were computed before, as the run's method reads them.
        kept: What runs have read and keep in memory, as far as `data.keep_mib` goes.
    """

    root: str
    manifest: Manifest
    stream: Stream = stream_here
    stored: FeatureFinder | None = None
    kept: KeptPasses = field(default_factory=KeptPasses, repr=False, compare=False)
