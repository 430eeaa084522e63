"""Which hosts are ours and whose pages may send requests: one list decides, before anything else looks at a request.

A browser sends a page's requests wherever the page says, with the browser's own way into the network. So a page of any
website could use a server that only this machine can reach. Two things give such a page away: the ``Origin`` that the
browser adds, and the ``Host`` that it was told to ask (DNS rebinding: the page's own name, pointing at this machine).
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger(__name__)

_AUTHORITY = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SAFE = ("GET", "HEAD")
_WORK = ("/datastore/dataset", "/datastore/image", "/session/", "/proxy/", "/logs/gpu", "/al/pixels")
"""Where a GET costs the server or the archive work, or keeps something alive: other websites cannot link there."""


class Authority(NamedTuple):
    """Host and port as a URL or the header ``Host`` names them.

    Attributes:
        name: in lower case; an IPv6 address without brackets.
        port: None where none is said.
    """

    name: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> Authority:
        """``name``, ``name:port``, ``[address]`` or ``[address]:port``.

        Raises:
            ValueError: anything else.
        """
        found = _AUTHORITY.fullmatch(text)
        if found is None or int(found["port"] or 0) > 65535:
            raise ValueError(f"{text[:100]!r} is not a host name with or without a port")
        name = found["name"].lower()
        if name.startswith("["):
            name = str(ipaddress.IPv6Address(name[1:-1]))
        name = name.removesuffix(".")
        if not name or any(not part for part in name.split(".")):
            raise ValueError(f"{text[:100]!r} is not a host name")
        return cls(name, int(found["port"]) if found["port"] else None)


class Origin(NamedTuple):
    """Where a page comes from; ``port`` is always said."""

    scheme: str
    name: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Origin:
        """``https://name`` or ``http://name:port``, as browsers send it.

        Raises:
            ValueError: anything else, ``null`` included.
        """
        scheme, separator, rest = text.partition("://")
        scheme = scheme.lower()
        if not separator or scheme not in _DEFAULT_PORTS:
            raise ValueError(f"{text[:100]!r} is not an origin such as https://viewer.example")
        name, port = Authority.parse(rest)
        return cls(scheme, name, port or _DEFAULT_PORTS[scheme])

    @classmethod
    def of_page(cls, address: str) -> Origin:
        """The origin of a page's whole address.

        Raises:
            ValueError: it has none.
        """
        return cls.parse(re.split(r"(?<![:/])[/?#]", address, maxsplit=1)[0])

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{name}{port}"


@dataclass(frozen=True)
class OwnHosts:
    """The list.

    Attributes:
        names: host names by which requests may reach the server.
        proxied: where a proxy serves it: its pages are ours, whatever ``Host`` the proxy sends on.
        friends: other pages that may use the server.
    """

    names: frozenset[str]
    proxied: frozenset[Authority]
    friends: frozenset[Origin]

    @classmethod
    def of(cls, hosts: Iterable[str] = (), origins: Iterable[str] = (), listens_on: str = "") -> OwnHosts:
        """The machine's own names and what a person allows.

        Args:
            hosts: names, with a port where a proxy serves on another one than 80 and 443.
            origins: of other pages.
            listens_on: host of the command line.

        Raises:
            ValueError: a value is not what it should be.
        """
        proxied = frozenset(parse_host(text) for text in hosts)
        friends = frozenset(parse_origin(text) for text in origins)
        machine = socket.gethostname()
        own = {"localhost", machine, machine.split(".")[0], socket.getfqdn(), listens_on}
        names = {name.lower().removesuffix(".") for name in own if name}
        names |= {place.name for place in proxied} | {friend.name for friend in friends}
        return cls(frozenset(names), proxied, friends)

    def knows(self, name: str) -> bool:
        """Whether requests may call the server so. An address cannot be pointed elsewhere, a foreign name can."""
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.names
        return True

    def trusts(self, origin: Origin, scheme: str, host: Authority) -> bool:
        """Whether pages of an origin may use the server.

        Args:
            origin: of the page.
            scheme: of the request, as far as the server knows: behind a proxy ``X-Forwarded-Proto`` says it.
            host: that the request asked for, one that :meth:`knows` has let pass.
        """
        if origin in self.friends:
            return True
        if scheme in ("https", "wss") and origin.scheme != "https":
            return False  # whoever sits in between can write what a page without TLS says
        default = _DEFAULT_PORTS[origin.scheme]
        # A proxy with TLS sends the name it is called by and speaks HTTP to us: the schemes may differ so.
        places = {host, *self.proxied}
        return any(origin.name == place.name and origin.port == (place.port or default) for place in places)


def parse_host(text: str) -> Authority:
    """A name of the option ``hosts``; names outside ASCII become what browsers send.

    Raises:
        ValueError: it is none.
    """
    name, colon, port = text.partition(":")
    if not text.isascii():
        text = name.encode("idna").decode() + colon + port
    return Authority.parse(text)


def parse_origin(text: str) -> Origin:
    """A value of the option ``origins`` or of ``MONAI_LABEL_CORS_ORIGINS``, which ends in a slash.

    Raises:
        ValueError: it is none.
    """
    return Origin.parse(text.removesuffix("/"))


class Refusal(NamedTuple):
    """Why a request is not answered."""

    status: int
    words: str


class OwnPages:
    """ASGI middleware: requests for foreign hosts and from foreign pages end here, with the reason.

    Clients other than browsers say neither ``Origin`` nor ``Sec-Fetch-Site`` nor ``Referer``, and pass.
    """

    def __init__(self, app: ASGIApp, hosts: OwnHosts) -> None:
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a foreign request, pass any other on."""
        refusal = self.refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "foreign page"})
        else:
            await JSONResponse({"detail": refusal.words}, refusal.status)(scope, receive, send)

    def refusal(self, scope: Scope) -> Refusal | None:
        """Why a request is not answered, None if it is."""
        headers = Headers(scope=scope)
        try:
            (named,) = headers.getlist("host")
            host = Authority.parse(named)
        except ValueError:
            return Refusal(400, "the header Host must name this server once, as in --conf hosts NAME")
        if not self.hosts.knows(host.name):
            return Refusal(421, f"this server is not known as {host.name!r}; to allow it: --conf hosts {host.name}")
        page = self._foreign_page(scope, headers, host)
        if page is None:
            return None
        return Refusal(
            403,
            f"requests of other websites' pages are refused, and {page} is foreign; "
            "if a proxy serves this server there, name it with --conf hosts, any other page with --conf origins",
        )

    def _foreign_page(self, scope: Scope, headers: Headers, host: Authority) -> str | None:
        """What shows that a foreign page sent a request, None if nothing does."""

        def is_ours(parse: Callable[[str], Origin], text: str) -> bool:
            try:
                return self.hosts.trusts(parse(text), scope["scheme"], host)
            except ValueError:
                return False

        origins = headers.getlist("origin")
        if origins:
            ours = len(origins) == 1 and is_ours(Origin.parse, origins[0])
            return None if ours else f"Origin {', '.join(origins)[:100]!r}"
        site, referer = headers.get("sec-fetch-site"), headers.get("referer")
        if site in ("same-origin", "none") or (referer is not None and is_ours(Origin.of_page, referer)):
            return None
        reads = scope["type"] == "http" and scope["method"] in _SAFE and not any(p in scope["path"] for p in _WORK)
        if site is None:  # an old browser, one that was given a plain HTTP address, or no browser
            return None if reads or referer is None else f"Referer {referer[:100]!r}"
        followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        return None if reads and followed else f"Sec-Fetch-Site {site[:100]!r}"
