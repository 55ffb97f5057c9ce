"""Who may ask, and what a wrong request is told: the middlewares of the front."""

from __future__ import annotations

import hmac
import ipaddress
import sys
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

from whet.serve.openai.jobs import Refused
from whet.serve.openai.shape import error_body

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Middleware = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]

OPEN_TO_ALL = ("/", "/page.css", "/page.js", "/health")  # they tell nothing about the model


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def clean_errors() -> Middleware:
    """Every error as JSON in OpenAI's form; what went wrong inside stands on stderr, not in the answer."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refused as refused:
            return error_response(refused)
        except web.HTTPException as error:
            return error_response(_of_http(request, error))
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:
            print(f"error: {type(error).__name__} while answering {request.path}: {error}", file=sys.stderr, flush=True)
            return error_response(Refused("an error inside the server; its log says more", status=500))

    return middleware


def _of_http(request: web.Request, error: web.HTTPException) -> Refused:
    if error.status == 404:
        return Refused(f"there is no {request.path} here", status=404, code="unknown_url")
    if error.status == 405:
        return Refused(f"{request.path} does not take {request.method}", status=405, code="method_not_allowed")
    if error.status == 413:
        return Refused("the body is larger than this server takes", status=413, code="body_too_large")
    return Refused(error.reason, status=error.status)


def error_response(refused: Refused) -> web.Response:
    """The response that says so."""
    headers = {} if refused.retry_after is None else {"Retry-After": str(refused.retry_after)}
    return web.json_response(error_body(refused), status=refused.status, headers=headers)


def check_caller(api_key: str | None) -> Middleware:
    """With a key: only who has it. Without: only programs of this machine, and no page of another site.

    A page in a browser can send requests to this machine. It cannot do so from another origin without an ``Origin``
    header; and where it renamed this machine (DNS rebinding), the ``Host`` header has the other name.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if api_key is not None:
            if request.path not in OPEN_TO_ALL and not _has_key(request, api_key):
                raise Refused("a wrong API key, or none", status=401, code="invalid_api_key")
        else:
            host = urlsplit(f"//{request.host}").hostname or ""
            if not is_loopback(host):
                raise Refused(f"this server does not answer to the name {host}", status=403)
            origin = request.headers.get("Origin")
            if origin is not None and urlsplit(origin).netloc != request.host:
                raise Refused("pages of other sites may not use this server", status=403)
        return await handler(request)

    return middleware


def _has_key(request: web.Request, api_key: str) -> bool:
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), api_key.encode())


def log_requests() -> Middleware:
    """One line a request on stderr: what, status, seconds. Never what was asked or said."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        started, status = time.monotonic(), "gone"
        try:
            response = await handler(request)
            status = str(response.status)
            return response
        finally:
            spent = time.monotonic() - started
            print(f"{request.method} {request.path} {status} {spent:.2f} s", file=sys.stderr, flush=True)

    return middleware
