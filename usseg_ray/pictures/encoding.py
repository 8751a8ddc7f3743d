"""Pictures inside a page: small, coded as WebP, in a data URI."""

import base64
import io

from PIL import Image


def embedded(
    picture: Image.Image, *, side: int, budget: int, flat: bool = True
) -> tuple[str, tuple[int, int]]:
    """Shrinks a picture until its bytes fit.

    Args:
        picture: In RGB.
        side: The longest width, pixels.
        budget: The most bytes that it may take, unless it is a quarter of `side` wide by then.
        flat: Whether it may be a label map, which takes fewer bytes without loss.

    Returns:
        The picture as WebP in a data URI, and its width and height.
    """
    width = min(side, picture.width)
    while True:
        size = (width, max(1, round(picture.height * width / picture.width)))
        small = picture.resize(size, Image.Resampling.LANCZOS)
        coded = _coded(small, flat)
        if len(coded) <= budget or width <= side // 4:
            return f"data:image/webp;base64,{base64.b64encode(coded).decode()}", size
        width = width * 3 // 4


def _coded(image: Image.Image, flat: bool) -> bytes:
    """Codes an image both ways and keeps the shorter: label maps are flat, photographs are not."""
    found = []
    for options in ({"lossless": True}, {"quality": 72}) if flat else ({"quality": 72},):
        file = io.BytesIO()
        image.save(file, "WEBP", method=4, **options)
        found.append(file.getvalue())
    return min(found, key=len)
