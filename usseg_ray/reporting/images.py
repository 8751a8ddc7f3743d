"""Makes pictures small enough to travel inside a page.

It stands between `store`, which has them in full size, and `details`.
"""

import base64
import io

from PIL import Image

from usseg_ray.reporting.content import Picture


def embedded(data: bytes, text: str, caption: str, *, side: int, budget: int) -> Picture:
    """Shrinks a picture until its bytes fit.

    Args:
        data: An image file.
        text: Says to those who do not see it what it shows.
        caption: Stands beneath it.
        side: The longest width, pixels.
        budget: The most bytes that it may take.

    Returns:
        The picture as WebP in a data URI.
    """
    with Image.open(io.BytesIO(data)) as file:
        full = file.convert("RGB")
    width = min(side, full.width)
    while True:
        size = (width, max(1, round(full.height * width / full.width)))
        small = full.resize(size, Image.Resampling.LANCZOS)
        coded = _coded(small)
        if len(coded) <= budget or width <= side // 4:
            source = f"data:image/webp;base64,{base64.b64encode(coded).decode()}"
            return Picture(source, size, text, caption)
        width = width * 3 // 4


def _coded(image: Image.Image) -> bytes:
    """Codes an image both ways and keeps the shorter: label maps are flat, photographs are not."""
    found = []
    for options in ({"lossless": True}, {"quality": 72}):
        file = io.BytesIO()
        image.save(file, "WEBP", method=4, **options)
        found.append(file.getvalue())
    return min(found, key=len)
