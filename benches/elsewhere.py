"""A second Orlop, with a root folder of its own: it has nothing of a volume that it adopts, as another host would.

This is the documented way to read a volume with no local copy of it (docs/howto/two-hosts.md): nothing of the first
Orlop's folders is touched. Unmounted there, the volume is mounted here at once.
"""

import json

from contestants import OrlopS3


class Elsewhere(OrlopS3):
    """Adopts the volume of another contestant, and reaches the store through that one's proxy."""

    name, title = "elsewhere", "Orlop, S3, another root"

    def __init__(self, first):
        super().__init__(first.world, first.server)
        self.first, self.proxy = first, first.proxy

    def start(self):
        """All but mounting it."""
        self.up()
        self.add_store(self.first.server.bucket(self.first.name))
        volume = json.loads(self.first.orlop("--output", "json", "volume", "inspect", "bench"))[0]
        self.orlop("volume", "adopt", "bench", "--store", "bench-s3", "--id", volume["id"])

    def clear(self):
        self.proxy = None  # the first one's, who goes on
        super().clear()
