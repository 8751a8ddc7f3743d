"""The HTTP interface, without Ray: what is asked, what is refused, and in which words."""

import asyncio
from importlib import resources
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, File, Header, HTTPException, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from usseg_ray import __version__
from usseg_ray.data.containers import UndecodableError
from usseg_ray.data.decode import check_header
from usseg_ray.models.description import Description
from usseg_ray.serve.answers import MEDIA_TYPES, Form, Wish, cluster_list
from usseg_ray.serve.gate import HEALTH, Gate, busy, refusal
from usseg_ray.serve.limits import Limits

PAGE = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class BusyError(Exception):
    """As many requests wait as may."""


class GoneError(Exception):
    """The worker ended while it had a request."""


class Responder(Protocol):
    """What answers requests."""

    async def answer(self, data: bytes, wish: Wish) -> bytes:
        """Segments an image.

        Raises:
            BusyError: The queue is full.
            GoneError: No worker is there.
            UndecodableError: It is no image.
        """

    async def healthy(self) -> bool:
        """Says whether requests are answered."""


def create_app(
    model: Responder,
    description: Description,
    limits: Limits,
    *,
    token: str | None = None,
    hosts: tuple[str, ...] = ("*",),
    page: bool = False,
) -> FastAPI:
    """Makes the application.

    Args:
        model: What answers requests.
        description: What it is.
        limits: What a request may cost.
        token: What clients show; nothing if unset.
        hosts: Names that clients may call the server by: on loopback another one is a web page's
            that has its own name point here.
        page: Whether `/` is the page to try a model on.
    """
    app = FastAPI(title="usseg_ray", version=__version__, docs_url=None, redoc_url=None)
    _answer_errors(app)
    _add_predict(app, model, limits)
    _add_facts(app, model, description)
    if page:
        _add_page(app)
    # The last one added is the first that a request meets.
    app.add_middleware(Gate, token=token, upload=limits.upload)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    return app


def _add_predict(app: FastAPI, model: Responder, limits: Limits) -> None:
    @app.post("/predict", response_class=Response)
    async def predict(
        image: Annotated[UploadFile, File(description="JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF.")],
        accept: Annotated[str, Header()] = "*/*",
        form: Annotated[Form | None, Query(alias="format")] = None,
        maps: Annotated[int | None, Query(ge=16, le=4096)] = None,
    ) -> Response:
        """Segments an image: a label map as PNG, or names, shares and confidence as JSON."""
        wish = Wish(form or wanted(accept), maps)
        data = await image.read()
        try:
            await asyncio.to_thread(check_header, data, limits.pixels)
            content = await model.answer(data, wish)
        except UndecodableError as error:
            raise HTTPException(422, f"No image that can be used: {error}.") from None
        except BusyError:
            return busy("As many requests wait as may (--queue)")
        except GoneError:
            return busy("The worker has ended and is started again")
        return Response(content, media_type=MEDIA_TYPES[wish.form])


def wanted(accept: str) -> Form:
    """Chooses between PNG and JSON as an `Accept` header asks.

    Args:
        accept: The header.

    Returns:
        What it weighs most, of equal ones what it names first; PNG for anything.

    Raises:
        HTTPException: It accepts neither.
    """
    ranges = [_weighed(part) for part in accept.split(",")]
    for kind, weight in sorted(ranges, key=lambda one: -one[1]):
        if weight > 0 and kind in ("image/png", "image/*", "*/*"):
            return "png"
        if weight > 0 and kind in ("application/json", "application/*"):
            return "json"
    raise HTTPException(406, "Answers are image/png or application/json (Accept).")


def _weighed(part: str) -> tuple[str, float]:
    kind, *parameters = (one.strip().lower() for one in part.split(";"))
    weight = next((one[2:] for one in parameters if one.startswith("q=")), "1")
    try:
        return kind, float(weight)
    except ValueError:
        return kind, 0.0


def _add_facts(app: FastAPI, model: Responder, description: Description) -> None:
    @app.get("/names")
    async def names() -> dict[str, Any]:
        """Says what the model is, and what its clusters are called."""
        return {
            "method": description.method,
            "num_clusters": description.num_clusters,
            "backbone": description.backbone.name,
            "data": description.data,
            "names": cluster_list(description.names),
        }

    @app.get(HEALTH)
    async def health() -> Response:
        """Says whether images are segmented now."""
        if await model.healthy():
            return Response('{"status": "ok"}', media_type=MEDIA_TYPES["json"])
        return busy("No worker is ready")


def _add_page(app: FastAPI) -> None:
    for path, name in PAGE.items():
        content = resources.files(__package__).joinpath(name).read_bytes()
        kind = _TYPES[name.rpartition(".")[2]]
        app.add_api_route(path, _file(content, kind), methods=["GET"], include_in_schema=False)


def _file(content: bytes, kind: str) -> Any:  # noqa: ANN401 (an endpoint)
    headers = {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }

    async def send() -> Response:
        return Response(content, media_type=kind, headers=headers)

    return send


def _answer_errors(app: FastAPI) -> None:
    """Has all refusals be one line in JSON."""

    @app.exception_handler(StarletteHTTPException)
    async def refused(_: Request, error: StarletteHTTPException) -> Response:
        return refusal(error.status_code, str(error.detail), **dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"])
        return refusal(422, f"{where}: {first['msg']}.")

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return refusal(500, f"The server failed ({type(error).__name__}); its log has more.")
