"""Our routes and no others, behind what stands between the network and them; a warning where everybody may come in."""

from __future__ import annotations

import argparse
import ipaddress
import logging
from collections.abc import Iterable, Sequence

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from monailabel.config import settings

from apps import upstream
from apps.auth.access import Row, serve_only
from apps.auth.origins import OwnHosts, OwnPages
from apps.auth.sign_in import SignedIn
from apps.http.bodies import StrictBodies
from apps.http.errors import HANDLERS
from apps.http.limits import UploadLimit
from apps.routes.metrics import Measured
from apps.web.headers import SecurityHeaders

logger = logging.getLogger(__name__)

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
"""What pages of allowed origins may send."""


def protect(
    server: FastAPI, routers: Sequence[APIRouter], rows: Iterable[Row], largest_upload: int, hosts: OwnHosts
) -> None:
    """Serve our routes and no others, refuse foreign pages, limit uploads, and turn errors into clear answers.

    Args:
        server: MONAI Label's application, about to start.
        routers: ours.
        rows: of routes that are not in the table of this repository.
        largest_upload: bytes of a request's body.
        hosts: whose requests are answered.
    """
    serve_only(server, routers, rows)
    upstream.middleware_can_be_added(server)
    upstream.remove_middleware(server, CORSMiddleware)  # lets every website in
    server.add_middleware(StrictBodies, rows=rows)
    server.add_middleware(UploadLimit, largest=largest_upload)
    if settings.MONAI_LABEL_AUTH_ENABLE:
        server.add_middleware(SignedIn)
    if hosts.friends:
        friends = [str(origin) for origin in hosts.friends]
        server.add_middleware(
            CORSMiddleware, allow_origins=friends, allow_credentials=True, allow_methods=METHODS, allow_headers=["*"]
        )
    server.add_middleware(OwnPages, hosts=hosts)
    server.add_middleware(SecurityHeaders)
    server.add_middleware(Measured)  # the last one added sees a request first
    for kind, handler in HANDLERS.items():
        server.add_exception_handler(kind, handler)


def listens_on(arguments: Sequence[str]) -> str:
    """The host of the command that started the server.

    Args:
        arguments: of that command.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-i", "--host", default="0.0.0.0")
    return str(parser.parse_known_args(list(arguments))[0].host)


def warn_if_open(arguments: Sequence[str]) -> None:
    """Say plainly that everybody can use the server, where that is so.

    Args:
        arguments: of the command that started it.
    """
    host = listens_on(arguments)
    try:
        private = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        private = False
    if not private and not settings.MONAI_LABEL_AUTH_ENABLE:
        logger.warning(
            "the server listens on %s WITHOUT AUTHENTICATION: everybody who can reach it can see all images and change "
            "all labels. Start it with --host 127.0.0.1, or see docs/security.md",
            host,
        )
