"""A web server on the loopback interface that misbehaves as a test asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class FileServer:
    """Files by path, and what is wrong with the server.

    ``drops`` are the numbers of bytes after which the next responses break off; ``statuses`` are answers that the
    next requests get instead of the file. ``requests`` records path and Range header of each request,
    ``methods`` its method.
    """

    files: dict[str, bytes]
    url: str = ""
    honours_ranges: bool = True
    etag: str | None = '"first"'
    drops: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)

    @property
    def ranges(self) -> list[str | None]:
        return [wanted for _, wanted in self.requests]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.requests.append((handler.path, wanted))
        self.methods.append(handler.command)
        content = self.files.get(handler.path)
        if self.statuses or content is None:
            handler.send_error(self.statuses.pop(0) if self.statuses else 404)
            return
        start = 0
        version = handler.headers.get("If-Range")
        if wanted and self.honours_ranges and version in (None, self.etag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start))
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.end_headers()
        if handler.command == "HEAD":
            return
        sent = content[start:]
        if self.drops:
            sent = sent[: self.drops.pop(0)]
            handler.close_connection = True
        handler.wfile.write(sent)


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[FileServer]:
    server = FileServer(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.answer(self)

        def do_HEAD(self) -> None:
            server.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        server.url = f"http://127.0.0.1:{listening.server_port}"
        thread = Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield server
        listening.shutdown()
        thread.join()
