"""The contestants: how each is set up on one disk and one S3 server, which processes serve it, and what is durable
when one of its calls returns.

Each is used with the options that its own documentation gives for this purpose, and no others; what differs from its
defaults is in `setting` and stands under the table.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request

from common import Failed, find, free_port, is_mounted, mounts_under, processes_with, remove_tree, run, stop, target_folder
from common import unmount, wait_for
from s3 import ACCESS_KEY, SECRET_KEY, Proxy

# What a power failure leaves of a change when the call has returned.
LETTERS = {
    "M": "memory of a process, lost with it",
    "P": "page cache or journal of the host: survives a killed process, not a power failure",
    "L": "as P, and uploaded some seconds later",
    "D": "the host's disk",
    "S": "the S3 server has acknowledged it",
    "N": "nothing: the sync was answered without one",
}


def plain_environment():
    """Without what others have set for their own clouds and proxies."""
    foreign = ("AWS_", "AWSSECRET", "RCLONE_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    return {k: v for k, v in os.environ.items() if not k.upper().startswith(foreign)}


class Contestant:
    """A folder to work in, and who serves it."""

    name = title = setting = ""
    # Durable after a write and close without a sync, and after a sync.
    closed, synced = "P", "D"
    # Whether it needs the S3 server.
    remote = False

    def __init__(self, world, server):
        self.world, self.server = world, server
        self.home = world.path / self.name
        self.point = self.home / "mnt"
        self.proxy = self.child = None
        self.wanted = True

    def start(self):
        self.point.mkdir(parents=True)

    def end(self):
        """Ends what was started. May be called again."""

    def clear(self):
        """Ends it and removes all that it has, so that one of its kind can start anew."""
        self.end()
        if self.proxy:
            stop(self.proxy.child)
        if mounts_under(self.home):
            raise Failed(f"{self.title} is still mounted")
        remove_tree(self.home)
        if self.server:
            remove_tree(self.server.root / self.name)

    def folder(self, *names):
        """A folder inside the contestant's."""
        path = self.point.joinpath(*names)
        # Never by this process itself: a file system that hangs would hang the clean-up too.
        run(["mkdir", "-p", path], timeout=60)
        return path

    def pids(self):
        """The processes without which the folder would not answer."""
        return []

    def settle(self):
        """Waits until nothing goes on any more that was begun before."""
        subprocess.run(["sync", "-f", str(self.home)], capture_output=True)
        if self.proxy:
            self.proxy.settle()

    def through_proxy(self):
        if self.server is None:
            raise Failed("there is no S3 server")
        self.proxy = Proxy(self.world, self.server, self.name)
        return self.server.bucket(self.name)


class Native(Contestant):
    name, title = "native", "native folder"


class Null(Contestant):
    name, title = "null", "null FUSE"
    setting = "keeps everything in memory; kernel flags and times of Orlop's cache=strict"
    closed, synced, arguments = "M", "M", ()

    def start(self):
        super().start()
        program = find("orlop-nullfs", target_folder() / "release" / "orlop-nullfs")
        self.child = self.world.spawn(self.name, [program, *self.arguments, self.point])
        self.world.at_end.append(self.end)
        wait_for("mounting", lambda: is_mounted(self.point), child=self.child, log=self.world.log(self.name))

    def end(self):
        unmount(self.point)
        stop(self.child)

    def pids(self):
        return [self.child.pid]


class NullFast(Null):
    name, title, arguments = "null-fast", "null FUSE, fast", ("--fast",)
    setting = "keeps everything in memory; write-back cache, opens without a message, names kept"


class Orlop(Contestant):
    name, title = "orlop", "Orlop, local store"
    setting = "defaults: cache=fast, durability=local"

    def __init__(self, world, server):
        super().__init__(world, server)
        self.root = self.home / "root"

    def start(self):
        self.up()
        self.orlop("volume", "create", "bench", *self.options())
        self.mount()
        # Once more: what its options started (a proxy) must not end before it.
        self.world.at_end.append(self.end)

    def up(self):
        """Starts it, without a volume."""
        super().start()
        self.program = os.environ.get("ORLOP_BINARY") or find("orlop", target_folder() / "release" / "orlop")
        self.world.at_end.append(self.end)
        self.orlop("up", "--no-docker-plugin")

    def mount(self):
        self.orlop("mount", "bench", self.point, timeout=120)

    def unmount(self):
        """Returns when everything is at rest and no process serves the volume any more."""
        self.orlop("unmount", self.point, timeout=300)
        wait_for("ending the worker", lambda: not self.pids(), timeout=120)

    def options(self):
        return []

    def orlop(self, *words, timeout=30, env=None):
        return run([self.program, "--root", self.root, *words], timeout=timeout, env=env or plain_environment())

    def end(self):
        if not processes_with(str(self.root)):
            return
        try:
            self.orlop("down", "--force", timeout=60)
        except Failed as e:
            print(f"warning: {self.title}: orlop down: {e}", flush=True)
        unmount(self.point)
        # What is left was started for this root, which no other Orlop has.
        for sig in (signal.SIGTERM, signal.SIGKILL):
            for pid, _ in processes_with(str(self.root)):
                try:
                    os.kill(pid, sig)
                except ProcessLookupError:
                    pass
            end = time.monotonic() + 10
            while processes_with(str(self.root)) and time.monotonic() < end:
                time.sleep(0.1)

    def pids(self):
        return [pid for pid, words in processes_with(str(self.root)) if "worker" in words]

    def all_pids(self):
        return [pid for pid, _ in processes_with(str(self.root))]


class OrlopStrict(Orlop):
    name, title = "orlop-strict", "Orlop, local store, cache=strict"
    setting = "cache=strict, durability=local"

    def options(self):
        return ["-o", "cache=strict"]


class OrlopSealed(Orlop):
    name, title = "orlop-sealed", "Orlop, local store, encrypted"
    setting = "encrypt=on, else defaults"

    def options(self):
        return ["-o", "encrypt=on"]


class OrlopS3(Orlop):
    name, title = "orlop-s3", "Orlop, S3"
    setting = "defaults: cache=strict, durability=remote, not sealed"
    closed, synced, remote = "P", "S", True

    def options(self):
        self.add_store(self.through_proxy())
        return ["-o", "store=bench-s3"]

    def add_store(self, bucket):
        credentials = self.home / "credentials"
        credentials.write_text(f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
        credentials.chmod(0o600)
        self.orlop(
            "store", "add", "bench-s3", f"s3://{bucket}", "--set", f"endpoint={self.proxy.url}", "--credentials", f"file:{credentials}",
            timeout=60,
        )


class S3fs(Contestant):
    name, title = "s3fs", "s3fs"
    setting = "defaults (no disk cache)"
    closed, synced, remote = "S", "S", True

    def start(self):
        super().start()
        program = find("s3fs")
        bucket = self.through_proxy()
        password = self.home / "password"
        password.write_text(f"{ACCESS_KEY}:{SECRET_KEY}\n")
        password.chmod(0o600)
        (self.home / "tmp").mkdir()
        options = f"url={self.proxy.url},use_path_request_style,passwd_file={password},tmpdir={self.home / 'tmp'},dbglevel=crit"
        self.child = self.world.spawn(self.name, [program, bucket, self.point, "-f", "-o", options], env=plain_environment())
        self.world.at_end.append(self.end)
        wait_for("mounting", lambda: is_mounted(self.point), child=self.child, log=self.world.log(self.name))

    def end(self):
        unmount(self.point)
        stop(self.child)

    def pids(self):
        return [self.child.pid]


class Rclone(Contestant):
    name, title = "rclone", "rclone mount"
    setting = "--vfs-cache-mode full, else defaults; uploads 5 s after the last close"
    closed, synced, remote = "L", "N", True

    def start(self):
        super().start()
        program = find("rclone")
        bucket = self.through_proxy()
        config = self.home / "rclone.conf"
        config.write_text(
            f"[s3]\ntype = s3\nprovider = Other\nendpoint = {self.proxy.url}\naccess_key_id = {ACCESS_KEY}\n"
            f"secret_access_key = {SECRET_KEY}\nregion = us-east-1\nno_check_bucket = true\n"
        )
        self.control = free_port()
        self.child = self.world.spawn(
            self.name,
            [program, "mount", f"s3:{bucket}", self.point, "--vfs-cache-mode", "full", "--cache-dir", self.home / "cache",
             "--config", config, "--rc", "--rc-no-auth", "--rc-addr", f"127.0.0.1:{self.control}"],
            env=plain_environment(),
        )
        self.world.at_end.append(self.end)
        wait_for("mounting", lambda: is_mounted(self.point), child=self.child, log=self.world.log(self.name))

    def end(self):
        unmount(self.point)
        stop(self.child)

    def pids(self):
        return [self.child.pid]

    def uploads(self):
        """Files that are still to be uploaded; None if this version does not tell."""
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{self.control}/vfs/stats", data=b"{}")
            request.add_header("Content-Type", "application/json")
            with urllib.request.urlopen(request, timeout=5) as answer:
                cache = json.load(answer).get("diskCache", {})
            return cache["uploadsQueued"] + cache["uploadsInProgress"]
        except (OSError, ValueError, KeyError):
            return None

    def settle(self):
        super().settle()
        end = time.monotonic() + 600
        while (left := self.uploads()) and time.monotonic() < end:
            time.sleep(0.2)
        self.proxy.settle(quiet=7 if left is None else 1, limit=120)


ALL = [Native, Null, NullFast, Orlop, OrlopStrict, OrlopSealed, OrlopS3, S3fs, Rclone]


def named(text):
    """The contestants of an option, with commas between them; for argparse."""
    by_name = {c.name: c for c in ALL}
    names = text.split(",")
    if unknown := set(names) - set(by_name):
        raise argparse.ArgumentTypeError(f"no such contestant: {', '.join(sorted(unknown))} (there are {', '.join(by_name)})")
    return [by_name[name] for name in names]


def versions():
    found = {}
    for name, argv in {"s3fs": ["s3fs", "--version"], "rclone": ["rclone", "version"], "git": ["git", "--version"],
                       "s3s-fs": ["s3s-fs", "--version"]}.items():
        if program := shutil.which(argv[0]):
            out = subprocess.run([program, *argv[1:]], capture_output=True, text=True).stdout.splitlines()
            found[name] = out[0].strip() if out else "unknown"
    return found
