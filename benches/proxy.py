#!/usr/bin/python3
"""A counting pass-through in front of an S3 server: which requests a contestant makes, and how many bytes.

    proxy.py UPSTREAM_HOST:PORT [--latency MS]

Listens on a free loopback port and prints it. Reads commands from standard input, one a line, and answers each with
a line of JSON; ends with its input:

    stats           the counts so far
    latency MS      hold each request back by so much before it goes on; `latency 0` ends that

Only the heads of requests are parsed, to count them and to find where the next one begins; everything else passes as
it comes, but for one answer that a real S3 server never gives (see below). The `Host` header is left alone, so that
signatures stay valid.
"""

import argparse
import asyncio
import collections
import json
import socket
import sys
import time

READ = 1 << 18
FOLDER = (
    b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-type: application/x-directory\r\n"
    b'etag: "d41d8cd98f00b204e9800998ecf8427e"\r\nlast-modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\n'
)
ABSENT = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


class Counts:
    def __init__(self):
        self.methods = collections.Counter()
        self.statuses = collections.Counter()
        self.sent = 0
        self.received = 0
        self.open = 0
        self.last = time.monotonic()

    def report(self):
        return {
            "requests": dict(self.methods),
            "statuses": dict(self.statuses),
            "bytes_up": self.sent,
            "bytes_down": self.received,
            "unanswered": self.open,
            "quiet": round(time.monotonic() - self.last, 3),
        }


class Requests:
    """Finds request heads in a stream of bytes: yields pieces, each with method and target if a request begins with it."""

    def __init__(self):
        self.head = bytearray()
        self.body = 0  # bytes of the present body that are still to come
        self.chunks = None  # of a chunked body: "size", "data" or "trailer"
        self.opaque = False  # after something that cannot be parsed everything passes uncounted

    def feed(self, data):
        view = data
        while view:
            if self.opaque:
                yield None, bytes(view)
                return
            if self.body:
                n = min(self.body, len(view))
                self.body -= n
                yield None, view[:n]
                view = view[n:]
                continue
            self.head += view
            if self.chunks:
                end = self.head.find(b"\r\n")
                if end < 0:
                    return
                line, taken = bytes(self.head[:end]), end + 2
                if self.chunks == "size":
                    size = int(line.split(b";")[0], 16)
                    # A chunk ends with a line break of its own.
                    self.body, self.chunks = (size + 2, "size") if size else (0, "trailer")
                elif not line:
                    self.chunks = None
                piece, view = bytes(self.head[:taken]), bytes(self.head[taken:])
                self.head.clear()
                yield None, piece
                continue
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                if len(self.head) > 1 << 20:
                    self.opaque, view = True, bytes(self.head)
                    self.head.clear()
                    continue
                return
            piece, view = bytes(self.head[: end + 4]), bytes(self.head[end + 4 :])
            self.head.clear()
            lines = piece.split(b"\r\n")
            method = (lines[0].decode("latin-1").split(" ") + ["", ""])[:2]
            for line in lines[1:]:
                name, _, value = line.partition(b":")
                name = name.strip().lower()
                if name == b"content-length":
                    self.body = int(value)
                elif name == b"transfer-encoding" and b"chunked" in value.lower():
                    self.chunks = "size"
            if self.chunks:
                self.body = 0
            yield method, piece


async def requests_up(reader, writer, counts, settings, waiting):
    parse = Requests()
    while data := await reader.read(READ):
        counts.sent += len(data)
        counts.last = time.monotonic()
        for method, piece in parse.feed(data):
            if method is not None:
                counts.methods[method[0]] += 1
                counts.open += 1
                waiting.append(method)
                if settings["latency"] > 0:
                    await asyncio.sleep(settings["latency"])
            writer.write(piece)
        await writer.drain()


async def answers_down(reader, writer, counts, waiting, acknowledge):
    while data := await reader.read(READ):
        acknowledge()
        counts.received += len(data)
        counts.last = time.monotonic()
        # No client pipelines: while a request is open, what begins with a status line begins an answer.
        head = data
        while head.startswith(b"HTTP/1.1 100"):
            head = head.partition(b"\r\n\r\n")[2]
        if waiting and head.startswith(b"HTTP/1."):
            status = head[9:12].decode("latin-1")
            if status == "500" and waiting[0][0] == "HEAD":
                # s3s-fs answers so when it keeps a folder under this name. S3 has no folders: there "name" is absent,
                # and "name/" an empty object that somebody has put, as s3fs does for its folders.
                folder = waiting[0][1].partition("?")[0].endswith("/")
                status = "500 made 200" if folder else "500 made 404"
                data = FOLDER if folder else ABSENT
            waiting.clear()
            counts.open -= 1
            counts.statuses[status] += 1
        writer.write(data)
        await writer.drain()


async def serve(upstream, counts, settings, reader, writer):
    waiting = []
    try:
        up_reader, up_writer = await asyncio.open_connection(*upstream, limit=READ)
    except OSError:
        counts.statuses["refused"] += 1
        writer.close()
        return
    for w in (writer, up_writer):
        w.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def acknowledge():
        """At once: s3s-fs sends a small answer in two parts, the second 40 ms later if nobody acknowledges the first."""
        up_writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    acknowledge()
    both = [
        asyncio.ensure_future(requests_up(reader, up_writer, counts, settings, waiting)),
        asyncio.ensure_future(answers_down(up_reader, writer, counts, waiting, acknowledge)),
    ]
    # Either side's end is the end of both; a half-closed connection is of no use in HTTP/1.1 with keep-alive.
    _, rest = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.gather(*both, return_exceptions=True)
    if waiting:
        counts.open -= 1
    for w in (writer, up_writer):
        w.close()


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("upstream")
    parser.add_argument("--latency", type=float, default=0, metavar="MS")
    args = parser.parse_args()
    host, _, port = args.upstream.rpartition(":")
    counts, settings = Counts(), {"latency": args.latency / 1000}

    async def accept(reader, writer):
        try:
            await serve((host, int(port)), counts, settings, reader, writer)
        except (OSError, asyncio.CancelledError):
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=READ, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)

    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        words = line.decode().split()
        if words[:1] == ["latency"]:
            settings["latency"] = float(words[1]) / 1000
        print(json.dumps(counts.report()), flush=True)
    sys.exit(0)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
