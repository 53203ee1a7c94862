"""A notebook: keeps what it is told in /data, and serves it on port 8000.

POST a line to /notes and it is on disk (fsync) before the answer; GET /notes returns all of them.
`python app.py count SECONDS` instead writes a numbered line every few milliseconds, each one synced,
and says how many there were: the demo kills things under it.
"""

import os
import sys
import time

import bottle

NOTES = os.path.join(os.environ.get("DATA", "/data"), "notes.txt")


def append(path, line):
    """Adds a line and returns when it would survive a power cut."""
    with open(path, "a", encoding="utf-8") as f:
        f.write(line + "\n")
        f.flush()
        os.fsync(f.fileno())


@bottle.post("/notes")
def add():
    append(NOTES, bottle.request.body.read().decode())
    return "kept\n"


@bottle.get("/notes")
def notes():
    bottle.response.content_type = "text/plain; charset=utf-8"
    try:
        with open(NOTES, encoding="utf-8") as f:
            return f.read()
    except FileNotFoundError:
        return ""


def count(seconds):
    path = os.path.join(os.path.dirname(NOTES), "count.txt")
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        n += 1
        append(path, str(n))
        time.sleep(0.005)
    print(n)


if __name__ == "__main__":
    if sys.argv[1:2] == ["count"]:
        count(float(sys.argv[2]))
    else:
        bottle.run(host="0.0.0.0", port=8000, quiet=True)
