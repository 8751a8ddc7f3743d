"""Procedural textured scenes with exact labels: the data set `synthetic` that ships as code.

It stands at the start of an image's path, in the place of a folder of photographs: `scene` draws
an image and its label map, `encode` turns them into the JPEG and PNG bytes that a shard row holds.

A class is a *texture family* (bond, cells, blades, weave, ...), never a colour or a place: hue
ranges overlap, every region has its own scale, rotation and tone, light differs per scene, and
layouts have no preferred direction. A seed also moves the world a little (each class's usual hue
and texel size), so that a score on an unseen seed says something. Textures are functions of pixel
coordinates, evaluated inside their own region only: a scene costs about one full-frame texture.
"""

# mypy: disable-error-code="no-any-return"
# (numpy's stubs lose the type of a scaled array; the shapes below are checked at run time.)

import io
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8
from numpy.random import Generator
from PIL import Image
from scipy import ndimage

from usseg_ray.core.errors import UserError

Floats: TypeAlias = Float32[np.ndarray, "..."]

VERSION = 1
"""Rises whenever a pixel would change, so that a prepared copy is known to be stale."""
SIZE = 144
"""Side of a scene, pixels: a multiple of 8 and of 16, the usual patch sizes."""
IGNORE_INDEX = 255
"""The customary value; scenes are labelled everywhere and hold none."""
SPLITS: dict[str, int] = {"train": 240, "val": 60, "test": 60}
"""Split -> scenes in it."""

_LATTICE = 64
_WORLD_STREAM = len(SPLITS)


class _Noise:
    """Smooth periodic noise of zero mean and about unit deviation, one random lattice a scene."""

    def __init__(self, rng: Generator) -> None:
        self.rng = rng
        self.lattice = rng.standard_normal((_LATTICE, _LATTICE), dtype=np.float32)

    def __call__(self, u: Floats, v: Floats) -> Floats:
        # A fresh offset makes calls nearly independent without the cost of a fresh lattice.
        shift = self.rng.uniform(0, _LATTICE, 2).astype(np.float32)
        smooth = ndimage.map_coordinates(
            self.lattice,
            np.stack([u + shift[0], v + shift[1]]),
            order=2,
            mode="grid-wrap",
            prefilter=False,
        )
        # The quadratic B-spline about halves the deviation of white noise.
        return smooth * np.float32(1.9)

    def tone(self, i: Floats, j: Floats) -> Floats:
        """Looks up a value in (0, 1) for each integer cell (i, j)."""
        return 0.5 + 0.5 * np.tanh(0.8 * self.lattice[_wrapped(i), _wrapped(j)])


def _wrapped(i: Floats) -> Int32[np.ndarray, "..."]:
    return i.astype(np.int32) % _LATTICE


def _step(x: Floats, low: float, high: float) -> Floats:
    """Rises smoothly from 0 at `low` to 1 at `high`."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _cells(u: Floats, v: Floats, noise: _Noise) -> tuple[Floats, Floats, Floats]:
    """Returns distances to the nearest and second nearest jittered point, and the cell's tone."""
    jitter = noise.rng.uniform(0.1, 0.9, (2, _LATTICE, _LATTICE)).astype(np.float32)
    base_u, base_v = np.floor(u), np.floor(v)
    first = np.full_like(u, 9.0)
    second = first.copy()
    owner = np.zeros((2, u.size), np.float32)
    for du, dv in np.ndindex(3, 3):
        i, j = base_u + (du - 1), base_v + (dv - 1)
        offset = jitter[:, _wrapped(i), _wrapped(j)]
        gap = np.hypot(i + offset[0] - u, j + offset[1] - v)
        nearer = gap < first
        second = np.where(nearer, first, np.minimum(second, gap))
        first = np.where(nearer, gap, first)
        owner[0, nearer], owner[1, nearer] = i[nearer], j[nearer]
    return first, second, noise.tone(owner[0], owner[1])


def _brick(u: Floats, v: Floats, noise: _Noise) -> Floats:
    row = np.floor(v / 8)
    along = u / 17 + 0.5 * (row % 2)
    column = np.floor(along)
    to_joint = np.minimum(
        8 * (0.5 - np.abs(v / 8 - row - 0.5)), 17 * (0.5 - np.abs(along - column - 0.5))
    )
    face = 0.3 + 0.3 * noise.tone(row, column) + 0.05 * noise(u / 1.5, v / 1.5)
    return np.where(to_joint > 0.9, face, 0.95)


def _cloth(u: Floats, v: Floats, noise: _Noise) -> Floats:
    warp, weft = u / 5, v / 5
    over = (np.floor(warp) + np.floor(weft)) % 2
    thread = np.abs(np.sin(np.pi * np.where(over > 0, weft, warp)))
    return 0.25 + 0.6 * thread - 0.1 * over + 0.06 * noise(u / 4, v / 4)


def _cloud(u: Floats, v: Floats, noise: _Noise) -> Floats:
    return (
        0.5
        + 0.17 * noise(u / 34, v / 34)
        + 0.07 * noise(u / 15, v / 15)
        + 0.02 * noise(u / 6, v / 6)
    )


def _foliage(u: Floats, v: Floats, noise: _Noise) -> Floats:
    clumps = noise(u / 11, v / 11) + 0.3
    leaves = noise(u / 3.2, v / 3.2)
    return 0.45 + 0.22 * np.tanh(1.5 * clumps) + 0.25 * np.tanh(2 * leaves) * (clumps > -0.4)


def _grass(u: Floats, v: Floats, noise: _Noise) -> Floats:
    bend = 2.5 * noise(u / 30, v / 30)
    blades = [noise((u + lean * v + bend) / 1.7, v / 16) for lean in (-0.25, 0.0, 0.3)]
    return 0.3 + 0.22 * np.maximum.reduce(blades)


def _gravel(u: Floats, v: Floats, noise: _Noise) -> Floats:
    first, second, tone = _cells(u / 9, v / 9, noise)
    dome = np.sqrt(np.clip(1 - 1.1 * first * first, 0, 1))
    return _step(second - first, 0.02, 0.3) * (0.25 + 0.55 * tone) * (0.5 + 0.5 * dome) + 0.05


def _metal(u: Floats, v: Floats, noise: _Noise) -> Floats:
    wave = np.sin(2 * np.pi * v / 9)
    return 0.45 + 0.25 * wave + 0.25 * np.clip(wave, 0, 1) ** 6 + 0.05 * noise(u / 25, v / 25)


def _sand(u: Floats, v: Floats, noise: _Noise) -> Floats:
    return (
        0.55
        + 0.11 * noise(u / 1.2, v / 1.2)
        + 0.06 * noise(u / 2.5, v / 2.5)
        + 0.04 * noise(u / 20, v / 20)
    )


def _water(u: Floats, v: Floats, noise: _Noise) -> Floats:
    swell = noise(u / 22, v / 9)
    ripple = np.sin(2 * np.pi * v / 10 + 2.2 * swell + 1.2 * noise(u / 12, v / 5))
    return 0.42 + 0.13 * ripple + 0.3 * _step(ripple + 0.4 * swell, 0.9, 1.5)


def _wood(u: Floats, v: Floats, noise: _Noise) -> Floats:
    rings = v / 13 + 1.1 * noise(u / 90, v / 30)
    grain = noise(u / 45, v / 1.6)
    return 0.5 + 0.22 * (2 * (rings % 1) - 1) * (0.6 + 0.4 * np.sin(rings)) + 0.1 * grain


class _Family(NamedTuple):
    """One class: texture value by position (pixels at unit scale), usual hue (turns), colour."""

    texture: Callable[[Floats, Floats, _Noise], Floats]
    hue: float
    colour: tuple[int, int, int]


_FAMILIES = {
    "brick": _Family(_brick, 0.03, (213, 94, 0)),
    "cloth": _Family(_cloth, 0.85, (204, 121, 167)),
    "cloud": _Family(_cloud, 0.58, (86, 180, 233)),
    "foliage": _Family(_foliage, 0.30, (0, 158, 115)),
    "grass": _Family(_grass, 0.22, (148, 203, 86)),
    "gravel": _Family(_gravel, 0.10, (128, 128, 128)),
    "metal": _Family(_metal, 0.62, (46, 37, 133)),
    "sand": _Family(_sand, 0.13, (240, 228, 66)),
    "water": _Family(_water, 0.52, (0, 114, 178)),
    "wood": _Family(_wood, 0.07, (126, 41, 84)),
}
CLASSES: tuple[str, ...] = tuple(_FAMILIES)
"""Class names, by class index."""
PALETTE: tuple[tuple[int, int, int], ...] = tuple(f.colour for f in _FAMILIES.values())
"""RGB colour to draw each class in; mostly from Okabe and Ito's colour-blind-safe set."""


class _World(NamedTuple):
    """What a seed fixes for all its scenes, one entry a class: hue (turns) and texel size."""

    hue: Floats
    texel: Floats


def _generator(seed: int, stream: int, index: int) -> Generator:
    return Generator(np.random.PCG64(np.random.SeedSequence([seed, stream, index])))


@lru_cache(maxsize=8)
def _world(seed: int) -> _World:
    rng = _generator(seed, _WORLD_STREAM, 0)
    usual = np.array([family.hue for family in _FAMILIES.values()])
    hue = usual + rng.uniform(-0.08, 0.08, len(usual))
    texel = np.exp(rng.uniform(-0.15, 0.15, len(usual)))
    return _World(hue.astype(np.float32), texel.astype(np.float32))


def _rotated(x: Floats, y: Floats, angle: float) -> tuple[Floats, Floats]:
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * x + s * y, c * y - s * x


def _layout(rng: Generator, noise: _Noise, x: Floats, y: Floats) -> Int64[np.ndarray, "H W"]:
    """Draws 3 to 6 regions: scattered patches, wavy bands, or blobs, which may hide each other."""
    count = int(rng.integers(3, 7))
    x = x + 7 * noise(x / 32, y / 32)
    y = y + 7 * noise(x / 32, y / 32)
    kind = rng.integers(3)
    if kind == 0:
        centres = rng.uniform(0.08 * SIZE, 0.92 * SIZE, (count, 2, 1, 1)).astype(np.float32)
        return np.hypot(x - centres[:, 0], y - centres[:, 1]).argmin(0)
    if kind == 1:
        across, _ = _rotated(x - SIZE / 2, y - SIZE / 2, rng.uniform(0, 2 * np.pi))
        cuts = np.linspace(-0.5, 0.5, count + 1)[1:-1] + rng.uniform(-0.06, 0.06, count - 1)
        return np.searchsorted(np.sort(cuts), across / SIZE)
    regions = np.zeros(x.shape, np.int64)
    for region in range(1, count):
        u, v = _rotated(x - rng.uniform(0, SIZE), y - rng.uniform(0, SIZE), rng.uniform(0, np.pi))
        regions[np.hypot(u / rng.uniform(28, 48), v / rng.uniform(22, 34)) < 1] = region
    return regions


def _rgb(hue: float, saturation: float, value: float) -> Floats:
    wheel = np.abs((6 * hue + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    colour = value * (1 - saturation * (1 - np.clip(wheel, 0, 1)))
    return colour.astype(np.float32)


def _paint(rng: Generator, hue: float, value: Floats) -> Floats:
    """Colours texture values along a ramp from a shade to a highlight of one drawn hue."""
    hue = hue + rng.normal(0, 0.09)
    saturation = rng.uniform(0.1, 0.6)
    bright = rng.uniform(0.7, 1.0)
    shade = _rgb(hue + rng.uniform(-0.05, 0.05), min(1.3 * saturation, 1), 0.18 * bright)
    light = _rgb(hue, saturation, bright)
    return shade + np.clip(value, 0, 1.1)[:, None] * (light - shade)


def _light(rng: Generator, noise: _Noise, x: Floats, y: Floats) -> Floats:
    """Draws a global gain with a gradient, a colour cast, and in half the scenes a shadow."""
    x, y = x / SIZE - 0.5, y / SIZE - 0.5
    across, _ = _rotated(x, y, rng.uniform(0, 2 * np.pi))
    field = rng.uniform(0.7, 1.2) * (1 + rng.uniform(0, 0.5) * across)
    if rng.random() < 0.5:
        edge, _ = _rotated(x, y, rng.uniform(0, 2 * np.pi))
        edge = edge + rng.uniform(-0.3, 0.3) + 0.06 * noise(5 * x, 5 * y)
        field = field * (1 - rng.uniform(0.2, 0.45) * _step(edge, -0.04, 0.04))
    cast = rng.uniform(0.9, 1.1, 3).astype(np.float32)
    return field[..., None] * cast


def _scatter_specks(rng: Generator, image: Floats) -> None:
    """Draws small discs of any colour into the image, in place: clutter without a label."""
    offset = np.arange(-3, 4)
    for _ in range(rng.integers(5, 26)):
        row, column = rng.integers(3, SIZE - 3, 2)
        disc = np.hypot(offset[:, None], offset) <= rng.uniform(0.8, 3.0)
        window = image[row - 3 : row + 4, column - 3 : column + 4]
        window[disc] = _rgb(rng.random(), rng.uniform(0, 0.7), rng.uniform(0.1, 1.0))


def _photograph(rng: Generator, image: Floats) -> UInt8[np.ndarray, "H W 3"]:
    """Adds a lens's blur and a sensor's noise, and rounds to 8 bits."""
    blur = rng.uniform(0.3, 0.8)
    image = ndimage.gaussian_filter(image, (blur, blur, 0), truncate=3)
    image = image + rng.uniform(0.005, 0.025) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(255 * image + 0.5, 0, 255).astype(np.uint8)


def scene(
    seed: int, split: str, index: int
) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
    """Draws one scene, the same bytes for the same arguments whatever was drawn before.

    Args:
        seed: World that the scene belongs to, from 0.
        split: A key of `SPLITS`; splits share the world but no scene.
        index: Number of the scene in its split, from 0.

    Returns:
        The RGB image and its class indices, both `SIZE` pixels wide and high.

    Raises:
        UserError: There is no such split.
    """
    if split not in SPLITS:
        raise UserError(f"synthetic: no split {split!r}; there are {', '.join(SPLITS)}.")
    rng = _generator(seed, list(SPLITS).index(split), index)
    world, noise = _world(seed), _Noise(rng)
    y, x = np.indices((SIZE, SIZE), np.float32)
    regions = _layout(rng, noise, x, y)
    classes = rng.permutation(len(CLASSES)).astype(np.uint8)
    image = np.empty((SIZE, SIZE, 3), np.float32)
    for region in np.unique(regions):
        k, inside = classes[region], regions == region
        size = world.texel[k] * np.float32(np.exp(rng.uniform(-0.25, 0.25)))
        u, v = _rotated(x[inside] / size, y[inside] / size, rng.uniform(0, 2 * np.pi))
        value = _FAMILIES[CLASSES[k]].texture(u, v, noise)
        image[inside] = _paint(rng, float(world.hue[k]), value)
    _scatter_specks(rng, image)
    return _photograph(rng, image * _light(rng, noise, x, y)), classes[regions]


def encode(
    image: UInt8[np.ndarray, "H W 3"], label: UInt8[np.ndarray, "H W"]
) -> tuple[bytes, bytes]:
    """Encodes a scene as real data comes: a JPEG image and a PNG label map.

    Args:
        image: (H, W, 3) uint8, RGB.
        label: (H, W) uint8, class indices.

    Returns:
        JPEG bytes (quality 92, full chroma resolution) and PNG bytes (8-bit grey, exact).
    """
    jpeg, png = io.BytesIO(), io.BytesIO()
    Image.fromarray(image).save(jpeg, "JPEG", quality=92, subsampling=0)
    Image.fromarray(label).save(png, "PNG")
    return jpeg.getvalue(), png.getvalue()
