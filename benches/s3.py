"""The S3 server that contestants use, the counting proxy before it, and just enough of a client to compare with."""

import hashlib
import hmac
import http.client
import json
import os
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from common import HERE, Failed, find, free_port, last_line, wait_for

ACCESS_KEY, SECRET_KEY, REGION = "orlop-bench-key", "orlop-bench-not-a-secret", "us-east-1"


class Server:
    """The S3 server that every contestant uses, each through a proxy and in a bucket of its own."""

    def __init__(self, world):
        self.world = world
        self.root = world.path / "s3"
        self.root.mkdir()
        program = find("s3s-fs", Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orlop/tools/bin/s3s-fs")
        self.port = free_port()
        argv = [program, "--host", "127.0.0.1", "--port", self.port, "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]
        self.child = world.spawn("s3s-fs", [*argv, self.root], env={**os.environ, "RUST_LOG": "error"})
        wait_for("starting s3s-fs", self.listens, child=self.child, log=world.log("s3s-fs"))

    def listens(self):
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def bucket(self, name):
        (self.root / name).mkdir(exist_ok=True)
        return name


class Proxy:
    """A counting proxy before the server, in a process of its own."""

    def __init__(self, world, server, name, latency_ms=0):
        self.child = world.spawn(
            f"proxy-{name}", ["/usr/bin/python3", "-B", HERE / "proxy.py", f"127.0.0.1:{server.port}", "--latency", latency_ms],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )
        line = self.child.stdout.readline()
        if not line:
            raise Failed(f"the proxy did not start{last_line(world.log(f'proxy-{name}'))}")
        self.port = int(line)
        self.url = f"http://127.0.0.1:{self.port}"
        self.lock = threading.Lock()

    def ask(self, command):
        with self.lock:
            try:
                self.child.stdin.write(command + "\n")
                self.child.stdin.flush()
                return json.loads(self.child.stdout.readline())
            except (OSError, ValueError):
                raise Failed("the proxy is gone") from None

    def stats(self):
        return self.ask("stats")

    def latency(self, milliseconds):
        return self.ask(f"latency {milliseconds}")

    @contextmanager
    def delayed(self, milliseconds):
        """Every request is held back meanwhile."""
        self.latency(milliseconds)
        try:
            yield
        finally:
            self.latency(0)

    def settle(self, quiet=1.0, limit=120):
        """Waits until no request has passed for a while."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            s = self.stats()
            if s["unanswered"] <= 0 and s["quiet"] >= quiet:
                return True
            time.sleep(0.1)
        return False


def passed(before, after):
    """What went through a proxy between two of its reports."""
    requests = {k: v - before["requests"].get(k, 0) for k, v in after["requests"].items()}
    return {
        "requests": {k: v for k, v in requests.items() if v},
        "bytes_up": after["bytes_up"] - before["bytes_up"], "bytes_down": after["bytes_down"] - before["bytes_down"],
    }


class Client:
    """Just enough of S3 to put an object over a kept connection: signature version 4 and nothing else."""

    def __init__(self, port):
        self.host = f"127.0.0.1:{port}"
        self.connection = http.client.HTTPConnection("127.0.0.1", port)
        self.connection.connect()
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def put(self, bucket, key, body):
        day = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        digest = hashlib.sha256(body).hexdigest()
        headers = {"host": self.host, "x-amz-content-sha256": digest, "x-amz-date": day}
        names = ";".join(sorted(headers))
        canonical = "\n".join(
            ["PUT", f"/{bucket}/{key}", "", *(f"{n}:{headers[n]}" for n in sorted(headers)), "", names, digest]
        )
        scope = f"{day[:8]}/{REGION}/s3/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", day, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        signing = f"AWS4{SECRET_KEY}".encode()
        for part in (day[:8], REGION, "s3", "aws4_request", text):
            signing = hmac.new(signing, part.encode(), hashlib.sha256).digest()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, SignedHeaders={names}, Signature={signing.hex()}"
        )
        self.connection.request("PUT", f"/{bucket}/{key}", body=body, headers=headers)
        answer = self.connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise Failed(f"PUT of {key}: {answer.status} {said[:200].decode(errors='replace')}")


def put_times(proxy, bucket, count, size):
    """Seconds of each of some bare PUTs, one after the other on a kept connection."""
    client, body, took = Client(proxy.port), os.urandom(size), []
    for i in range(count + 2):
        since = time.monotonic()
        client.put(bucket, f"bare/{i % 8}", body)
        took.append(time.monotonic() - since)
    return took[2:]
