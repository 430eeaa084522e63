"""What every answer tells the browser about how to treat it."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_NOWHERE = "base-uri 'none'; object-src 'none'; form-action 'self'; frame-ancestors 'self'"
PAGE = f"default-src 'self'; img-src 'self' data:; {_NOWHERE}"
"""Content policy of pages whose scripts and styles are files of this server."""
STYLED_PAGE = f"default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; {_NOWHERE}"
"""Content policy of a page whose scripts write styles."""
DATA = "default-src 'none'; frame-ancestors 'none'; sandbox"
"""Content policy of all that is no page: whatever an image, a label, a log or the archive holds, nothing in it runs."""

_EVERYWHERE = {
    "Content-Security-Policy": DATA,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class SecurityHeaders:
    """ASGI middleware: an answer that does not say how it may be used is data."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers where they are missing."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _EVERYWHERE.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


def viewer_policy(inline_scripts: tuple[str, ...]) -> str:
    """Content policy of OHIF: it compiles codecs, starts workers and writes styles, all from this server.

    Args:
        inline_scripts: base64 SHA-256 of each script inside its page.
    """
    scripts = " ".join(f"'sha256-{digest}'" for digest in inline_scripts)
    return (
        f"default-src 'self'; script-src 'self' 'unsafe-eval' blob: {scripts}; worker-src 'self' blob:; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        f"connect-src 'self' data: blob:; {_NOWHERE}"
    )
