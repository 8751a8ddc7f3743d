"""Draws charts as SVG: lines over a number, and lines across parallel axes.

It knows nothing of sweeps. A drawing takes its colours from the page's style sheet (`series-N`,
`grid`), so that it follows a light or dark scheme; series differ in dash and marker too, and each
has its name beside it. All text is escaped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

NUM_STYLES = 8
_WIDTH, _HEIGHT = 520, 330
_LEFT, _TOP, _BOTTOM = 46, 14, 46
_NAME = 34  # letters of a name, at most
_MARGIN = 22  # between the lines and their names, and behind these
_WIDTHS = {14: "mwMW%@+<=>~±−…", 6: "fijlrtI .,:;!'|()[]-/"}  # of letters, pixels; capitals have 11
_LINE = 17
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
_LOG_RATIO = 30
_TICKS = 5
_MAX_WHOLE = 9  # values across that each have a tick


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        name: What it is.
        points: (x, y), by x.
        style: Its colour, dash and marker, from 0.
        deviations: How far each point's bar reaches to either side; empty for none.
        named: Whether its name stands at its end; a line without a name is thin.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    style: int
    deviations: tuple[float | None, ...] = ()
    named: bool = True


@dataclass(frozen=True)
class Axis:
    """One of several parallel axes.

    Attributes:
        name: Its heading.
        values: One a line: numbers, or words where one is no number.
    """

    name: str
    values: tuple[float | str, ...]


def line_chart(
    title: str,
    description: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    levels: Sequence[tuple[str, float]] = (),
    key: str,
) -> str:
    """Draws lines over a number.

    Args:
        title: Names the drawing to a screen reader.
        description: Says what it shows.
        series: The lines.
        x_label: Under the axis.
        y_label: Above the axis.
        levels: Names and heights of dashed lines across.
        key: Unique on the page.

    Returns:
        An `svg` element.
    """
    frame = _Frame.around(series, levels)
    parts, labels = _axes(frame, x_label, y_label), list[tuple[float, str, int]]()
    for name, level in levels:
        _, y = frame.place(frame.xs[0], level)
        parts.append(_rule(frame.left, y, frame.right, y, "level"))
        labels.append((y, name, -1))
    for one in sorted(series, key=lambda one: one.named):
        spots = [frame.place(*point) for point in one.points]
        parts.append(_line(one, spots, [frame.place(*end) for end in _bars(one)]))
        if one.named and spots:
            labels.append((spots[-1][1], one.name, one.style))
    parts += _end_labels(labels, frame.right + 6)
    return _svg(parts, _WIDTH, title, description, key)


@dataclass(frozen=True)
class _Frame:
    """Where numbers lie in a drawing.

    Attributes:
        left: Where the lines begin, behind the marks of the axis upwards, pixels.
        xs: Ticks of the axis across.
        ys: Ticks of the axis upwards.
        right: Where the lines end and their names begin, pixels.
    """

    left: float
    xs: list[float]
    ys: list[float]
    right: float

    @classmethod
    def around(cls, series: Sequence[Series], levels: Sequence[tuple[str, float]]) -> "_Frame":
        """Makes room for series, their deviations, their names and the levels."""
        xs = [x for one in series for x, _ in one.points]
        ys = [y for one in series for _, y in (*one.points, *_bars(one))]
        names = [one.name for one in series if one.named] + [name for name, _ in levels]
        text = max((width_of(_short(name)) for name in names), default=0.0)
        whole = (sorted(set(xs)) or [0.0]) if len(set(xs)) <= _MAX_WHOLE else _ticks(xs)
        upwards = _ticks([*ys, *(level for _, level in levels)])
        marks = max(width_of(_written(tick)) for tick in upwards)
        return cls(max(_LEFT, marks + 10), whole, upwards, _WIDTH - _MARGIN - text)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Says at which pixel a point lies."""
        low, high = self.xs[0], self.xs[-1]
        across = 0.5 if high == low else (x - low) / (high - low)
        up = (y - self.ys[0]) / (self.ys[-1] - self.ys[0])
        floor = _HEIGHT - _BOTTOM
        left = self.left + 10 + across * (self.right - self.left - 20)
        return left, floor - up * (floor - _TOP - _LINE)


def _axes(frame: _Frame, x_label: str, y_label: str) -> list[str]:
    """Draws what a line chart stands on: its grid, ticks and labels."""
    parts = [_text(4, _TOP, y_label)]
    for tick in frame.ys:
        _, y = frame.place(frame.xs[0], tick)
        parts.append(_rule(frame.left, y, frame.right, y, "grid"))
        parts.append(_text(frame.left - 6, y + 5, _written(tick), "end"))
    for tick in frame.xs:
        x, _ = frame.place(tick, frame.ys[0])
        parts.append(_text(x, _HEIGHT - _BOTTOM + 20, _written(tick), "middle"))
    middle = (frame.left + frame.right) / 2
    return [*parts, _text(middle, _HEIGHT - 6, x_label, "middle")]


def parallel_axes(
    title: str,
    description: str,
    axes: Sequence[Axis],
    names: Sequence[str],
    *,
    key: str,
) -> str:
    """Draws a line for each of several things across axes of their own.

    Args:
        title: Names the drawing to a screen reader.
        description: Says what it shows.
        axes: The axes, each with a value for every line.
        names: What the lines are, the best first: it alone is coloured and named, and the others
            are the fainter the later they come.
        key: Unique on the page.

    Returns:
        An `svg` element.
    """
    pitch = max(110.0, *(width_of(_short(axis.name)) + 14 for axis in axes))
    edge = max(60.0, pitch / 2)
    end = max(edge, 20 + width_of(_short(names[0])))
    width = max(_WIDTH, math.ceil(edge + pitch * (len(axes) - 1) + end))
    step = (width - edge - end) / max(len(axes) - 1, 1)
    xs = [edge + number * step for number in range(len(axes))]
    heights = [[_upright(share) for share in _scaled(axis.values)[0]] for axis in axes]
    parts = [_axis(axis, x) for axis, x in zip(axes, xs, strict=True)]
    for place in range(len(names) - 1, -1, -1):
        path = _path([(x, of[place]) for x, of in zip(xs, heights, strict=True)])
        style = "series-0 thick" if place == 0 else "rest"
        opacity = 1.0 if place == 0 else 0.9 - 0.55 * place / len(names)
        parts.append(f'<path class="{style}" opacity="{opacity:.2f}" d="{path}"/>')
    parts.append(_text(xs[-1] + 12, heights[-1][0] + 20, _short(names[0])))
    return _svg(parts, width, title, description, key)


def _upright(share: float) -> float:
    """Says at which height a share of a parallel axis lies."""
    top, bottom = _TOP + 24, _HEIGHT - 30
    return bottom - share * (bottom - top)


def _axis(axis: Axis, x: float) -> str:
    """Draws one of several parallel axes with its marks."""
    parts = [
        _rule(x, _upright(1), x, _upright(0), "axis"),
        _text(x, _TOP, _short(axis.name), "middle"),
    ]
    for share, mark in _scaled(axis.values)[1]:
        y = _upright(share)
        parts.append(_rule(x - 4, y, x + 4, y, "axis"))
        parts.append(_text(x + 7, y + (14 if share == 0 else -4), _short(mark)))
    return "".join(parts)


def _svg(parts: Sequence[str], width: float, title: str, description: str, key: str) -> str:
    wide = ' class="wide"' if width > _WIDTH else ""
    return (
        f'<svg{wide} viewBox="0 0 {width:g} {_HEIGHT}" width="{width:g}" height="{_HEIGHT}" '
        f'role="img" aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{escape(title)}</title>'
        f'<desc id="{key}-desc">{escape(description)}</desc>{"".join(parts)}</svg>'
    )


def _line(one: Series, spots: list[tuple[float, float]], bars: list[tuple[float, float]]) -> str:
    style = one.style % NUM_STYLES
    dash = _DASHES[one.style % len(_DASHES)]
    look = f'class="series-{style}{"" if one.named else " thin"}"'
    path = f'<path {look} stroke-dasharray="{dash}" d="{_path(spots)}"/>' if len(spots) > 1 else ""
    bar = "".join(
        f'<path {look} d="{_path([low, high])}"/>'
        for low, high in zip(bars[::2], bars[1::2], strict=True)
    )
    marks = "".join(_marker(x, y, style, 4.5 if one.named else 2.5) for x, y in spots)
    return f"<g><title>{escape(one.name)}</title>{path}{bar}{marks}</g>"


def _bars(one: Series) -> list[tuple[float, float]]:
    return [
        (x, y + sign * deviation)
        for (x, y), deviation in zip(one.points, _padded(one), strict=True)
        if deviation is not None
        for sign in (-1, 1)
    ]


def _padded(one: Series) -> tuple[float | None, ...]:
    return one.deviations or (None,) * len(one.points)


def _marker(x: float, y: float, style: int, r: float) -> str:
    corners = {
        1: ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        2: ((0, -1.3), (1.2, 0.9), (-1.2, 0.9)),
        3: ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
    }.get(style % 4)
    if corners is None:
        return f'<circle class="fill-{style}" cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'
    points = " ".join(f"{x + dx * r:.1f},{y + dy * r:.1f}" for dx, dy in corners)
    return f'<polygon class="fill-{style}" points="{points}"/>'


def _end_labels(labels: list[tuple[float, str, int]], x: float) -> list[str]:
    """Sets names beside the ends of their lines, pushed apart where they would overlap."""
    found, lowest = list[str](), float(_TOP)
    labels = sorted(labels)
    room = _HEIGHT - _BOTTOM + 4 - _LINE * len(labels)
    for place, (y, name, style) in enumerate(labels):
        lowest = max(lowest + _LINE, min(y + 5, room + _LINE * (place + 1)))
        marker = _marker(x + 3, lowest - 5, style % NUM_STYLES, 4) if style >= 0 else ""
        found.append(marker + _text(x + (11 if marker else 0), lowest, _short(name)))
    return found


def _scaled(values: Sequence[float | str]) -> tuple[list[float], list[tuple[float, str]]]:
    """Places values on an axis from 0 to 1, and says where it has which mark."""
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) < len(values):
        said = [value if isinstance(value, str) else _written(value) for value in values]
        words = list(dict.fromkeys(said))
        shares = {word: i / max(len(words) - 1, 1) for i, word in enumerate(words)}
        return [shares[word] for word in said], [(s, w) for w, s in shares.items()]
    low, high = min(numbers), max(numbers)
    if low == high:
        return [0.5] * len(numbers), [(0.5, _written(low))]
    log = low > 0 and high / low > _LOG_RATIO
    scaled = [math.log(v) if log else v for v in numbers]
    first, span = min(scaled), max(scaled) - min(scaled)
    marks = [(0.0, _written(low)), (1.0, _written(high) + (" (log)" if log else ""))]
    return [(value - first) / span for value in scaled], marks


def _ticks(values: Sequence[float]) -> list[float]:
    """Chooses round numbers around values."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high:
        low, high = low - max(abs(low) * 0.1, 1e-6), high + max(abs(high) * 0.1, 1e-6)
    raw = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, last + 1)]


def _path(spots: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in spots)


def _rule(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def width_of(text: str) -> float:
    """Says how much room a text needs, pixels, in the widest of the page's fonts."""
    known = {letter: width for width, letters in _WIDTHS.items() for letter in letters}
    return float(sum(known.get(one, 11 if one.isupper() else 9) for one in text))


def _short(text: str) -> str:
    return text if len(text) <= _NAME else f"{text[: _NAME - 1]}…"


def _written(value: float) -> str:
    return f"{value:.4g}".replace("-", "\u2212")
