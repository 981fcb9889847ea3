"""``/health``, ``/metrics`` and the files of the web pages: routes and responses."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from gritlm.serve import metrics
from gritlm.serve.api.streaming import json_response
from gritlm.serve.errors import draining
from gritlm.serve.http.paths import DOCS, HEALTH, LIVE, METRICS
from gritlm.serve.schemas.model_info import HealthResponse
from gritlm.serve.service import Service
from gritlm.serve.strict_json import new_router

PAGE = Path(__file__).parents[1] / "web"


def routes(service: Service) -> APIRouter:
    """Return the routes of health and metrics."""
    router = new_router(tags=["operations"])

    @router.get(HEALTH, response_model=HealthResponse, summary="Check readiness")
    async def health() -> Response:
        """Check that the model answers, by a forward pass over one token. The status is 503 if it
        does not, and while the server is shutting down."""
        if service.draining:
            raise draining()
        await service.require_healthy()
        return json_response({"status": "ok"})

    @router.get(LIVE, response_model=HealthResponse, summary="Check liveness")
    async def live() -> Response:
        """Check that the process answers HTTP requests."""
        return json_response({"status": "alive"})

    @router.get(METRICS, response_class=Response, summary="Get metrics", responses=_TEXT)
    async def exposition() -> Response:
        """Return the metrics in the text format of Prometheus."""
        return Response(service.metrics.exposition(), media_type=metrics.CONTENT_TYPE)

    return router


def page() -> dict[str, str]:
    """Return the files of the web pages by URL path. They are static: no data of the server."""
    found = (path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*") if path.is_file())
    names = {f"/{name}": name for name in sorted(found)}
    return {"/": "index.html", DOCS: names.pop(f"{DOCS}.html"), **names}


def page_routes() -> list[Route]:
    """Return one route for each file of the web page, so that no other path serves a file."""
    files = StaticFiles(directory=PAGE)

    def route(path: str, name: str) -> Route:
        async def file(request: Request) -> Response:
            return await files.get_response(name, request.scope)

        return Route(path, file, methods=["GET"])

    return [route(path, name) for path, name in page().items()]


_TEXT: dict[int | str, dict[str, object]] = {
    200: {
        "description": "Metrics as text.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}
