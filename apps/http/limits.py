"""How much a request may bring."""

from __future__ import annotations

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apps.http.errors import answer


class UploadLimit:
    """ASGI middleware: a request body larger than the limit is a 413.

    Args:
        app: what comes after.
        largest: bytes.
    """

    def __init__(self, app: ASGIApp, largest: int) -> None:
        self.app = app
        self.largest = largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on as long as it is small enough."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self.largest:
            await answer(413, self._words(), Connection="close")(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.largest:
                raise HTTPException(413, self._words())
            return message

        await self.app(scope, counted, send)

    def _words(self) -> str:
        return f"the request is larger than {self.largest >> 20} MB, the option max_upload_mb"
