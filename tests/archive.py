"""An archive that does on its sockets what a test says, and knows who is still connected."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Asked:
    """One request as it arrived."""

    line: str
    headers: dict[str, str]
    body: bytes


def answer(
    content: bytes = b"[]", kind: str = "application/dicom+json", status: str = "200 OK", more: str = ""
) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n{more}\r\n"
    return head.encode() + content


@dataclass
class RawArchive:
    """Answers every request with what ``say`` writes into its socket."""

    say: Callable[[socket.socket], None] = lambda connection: connection.sendall(answer())
    asked: list[Asked] = field(default_factory=list)
    open: int = 0
    """Connections that the other side has not closed."""
    connections: int = 0
    """All that there ever were."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def serve(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with self.lock:
                    self.open += 1
                    self.connections += 1
                threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            while (request := self.read(connection)) is not None:
                self.asked.append(request)
                self.say(connection)
        with self.lock:
            self.open -= 1

    def read(self, connection: socket.socket) -> Asked | None:
        """The next request, None if there is none."""
        received = b""
        while b"\r\n\r\n" not in received:
            part = connection.recv(65536)
            if not part:
                return None
            received += part
        head, body = received.split(b"\r\n\r\n", 1)
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (text.partition(":") for text in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            part = connection.recv(65536)
            if not part:
                return None
            body += part
        return Asked(line, headers, body)


@contextmanager
def raw_archive() -> Iterator[RawArchive]:
    archive = RawArchive()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        archive.port = listener.getsockname()[1]
        threading.Thread(target=archive.serve, args=(listener,), daemon=True).start()
        yield archive
        listener.shutdown(socket.SHUT_RDWR)
