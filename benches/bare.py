"""The bare transfer: how fast the same bytes move through the same kind of proxy with the object_store crate alone.

The program is crates/store/examples/transfer.rs, whose client has the options of Orlop's own. How large its objects and
ranges are, and how many move at once, is what was fastest of those that were tried.
"""

import json
import os

from common import MIB, Missing, run, target_folder
from contestants import plain_environment
from s3 import ACCESS_KEY, REGION, SECRET_KEY, Proxy

PUT_OBJECT, PUT_PARALLEL = 16 * MIB, 8
GET_RANGE, GET_PARALLEL = 4 * MIB, 16


class Bare:
    """Moves bytes, and is measured like a contestant."""

    name, title = "bare", "bare transfer"

    def __init__(self, world, server):
        self.program = os.environ.get("ORLOP_TRANSFER") or target_folder() / "release" / "examples" / "transfer"
        if not os.access(self.program, os.X_OK):
            raise Missing("the bare transfer is not built: ./dev bench --far builds it")
        self.bucket = server.bucket(self.name)
        self.proxy = Proxy(world, server, self.name)

    def settle(self):
        self.proxy.settle(quiet=0)

    def transfer(self, what, total, **settings):
        words = [word for key, value in settings.items() for word in (f"--{key}", value)]
        env = {**plain_environment(), "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        argv = [self.program, what, "--endpoint", self.proxy.url, "--region", REGION, "--bucket", self.bucket, "--bytes", total, *words]
        return json.loads(run(argv, timeout=1800, env=env))

    def put(self, total, object=PUT_OBJECT, parallel=PUT_PARALLEL, prefix="put"):
        return self.transfer("put", total, object=object, parallel=parallel, prefix=prefix)

    def get(self, total, object=PUT_OBJECT, span=GET_RANGE, parallel=GET_PARALLEL, prefix="put"):
        """Reads what `put` with the same prefix has put."""
        return self.transfer("get", total, object=object, range=span, parallel=parallel, prefix=prefix)
