"""Volumes on an S3 server under containers: Docker's own commands, and what happens when a part goes away."""

import tempfile
import time

import pytest
from conftest import BASE_IMAGE
from harness import s3
from harness.orlop import Orlop
from harness.processes import kill, wait_until

pytestmark = pytest.mark.skipif(not s3.program(), reason="s3s-fs is not installed: run ./dev setup")

# Every line is synced, and said only then.
COUNTER = "i=0; while true; do i=$((i+1)); echo $i >> /data/count || exit 9; sync /data/count || exit 8; sleep 0.05; done"


@pytest.fixture
def server(base, name):
    server = s3.S3(base / f"{name}-s3")
    yield server
    server.destroy()


def removed(orlop, volume):
    """Deletes a volume for good; one that another host had last is taken back first."""
    if orlop.cli("volume", "remove", "--now", volume, check=False).returncode == 0:
        return True
    with tempfile.TemporaryDirectory() as folder:
        if orlop.cli("mount", volume, folder, check=False).returncode == 0:
            orlop.cli("unmount", folder, check=False)
    return False


@pytest.fixture
def store(engine, orlop, server, name):
    """A store on the server. Whatever a test does to the server, it is there again for the clearing up."""
    store = f"{name}-store"
    orlop.cli(*server.words(store))
    yield store
    server.stop()
    server.start()
    orlop.ensure_up()
    containers = engine.sh("ps", "-aq").split()
    if containers:
        engine.docker("rm", "-f", *containers, timeout=180)
    for volume in orlop.volumes("--all"):
        if volume["store"] == store:
            wait_until(
                f"volume {volume['name']} can be removed", 90,
                lambda v=volume: removed(orlop, v["id"]), every=1,
            )
    orlop.cli("store", "remove", store)


@pytest.fixture
def volume(engine, orlop, store, name):
    """A volume on the server, created through Docker."""
    return create(engine, orlop, store, name)


def create(engine, orlop, store, name, *options):
    args = [x for option in (f"store={store}", *options) for x in ("-o", option)]
    assert engine.sh("volume", "create", "-d", orlop.driver, *args, name) == name
    return name


def counted(engine, box):
    numbers = [int(x) for x in engine.exec(box, "cat /data/count").split()]
    assert numbers == list(range(1, len(numbers) + 1)), "no line is lost, doubled or torn"
    return len(numbers)


def counting(engine, volume):
    box = engine.sh("run", "-d", "--init", "-v", f"{volume}:/data", BASE_IMAGE, "sh", "-c", COUNTER)
    wait_until("it counts", 20, lambda: engine.docker("exec", box, "test", "-s", "/data/count", check=False).returncode == 0)
    return box


def goes_on(engine, box, seconds=30):
    before = counted(engine, box)
    wait_until("the container goes on writing", seconds, lambda: counted(engine, box) > before + 5, every=0.3)


def worker(orlop, volume):
    (found,) = [w for w in orlop.json("status")["keeper"]["workers"] if w["volume"] == volume]
    return found["pid"]


def unmounted(orlop, volume):
    return not [w for w in orlop.json("status")["keeper"]["workers"] if w["volume"] == volume]


def test_docker_creates_shows_shares_and_removes_it(engine, orlop, server, store, name, sleeper):
    create(engine, orlop, store, name)
    assert f"{orlop.driver} {name}" in engine.sh("volume", "ls", "--format", "{{.Driver}} {{.Name}}").splitlines()
    shown = engine.inspect("volume", name)
    assert shown["Driver"] == orlop.driver and shown["Options"]["store"] == store and shown["Status"]["Kind"] == "chunked"
    one, two = sleeper("-v", f"{name}:/data"), sleeper("-v", f"{name}:/data")
    engine.exec(one, "mkdir /data/d; head -c 3000000 /dev/urandom > /data/d/f; md5sum /data/d/f > /data/sum; sync")
    engine.exec(two, "md5sum -c /data/sum; mv /data/d/f /data/f")
    assert engine.exec(one, "ls /data") == "d\nf\nsum"
    assert engine.docker("volume", "rm", name, check=False).returncode != 0, "it is in use"
    assert orlop.cli("store", "remove", store, check=False).returncode != 0, "a volume lives there"
    engine.docker("rm", "-f", one, two)
    # Both containers are gone; what they wrote is not.
    out = engine.sh("run", "--rm", "-v", f"{name}:/data:ro", BASE_IMAGE, "sh", "-ec", "md5sum < /data/f; cut -d' ' -f1 /data/sum")
    assert len({line.split()[0] for line in out.splitlines()}) == 1, out
    engine.docker("volume", "rm", name)
    assert name not in engine.sh("volume", "ls", "-q").split()
    # Removed is not destroyed.
    orlop.cli("volume", "restore", name)
    engine.sh("run", "--rm", "-v", f"{name}:/data", BASE_IMAGE, "test", "-s", "/data/f")


# Names, a link's target and contents, of bytes that compression hardly makes shorter.
PLANT = """
import os, random, sys
dice = random.Random(sys.argv[1])
plant = lambda: bytes(dice.choices([b for b in range(1, 256) if b != 47], k=200))
names, target, content = [plant() for _ in range(40)], plant(), plant()
folder = b"/data/" + names[0]
if sys.argv[2] == "write":
    os.mkdir(folder)
    for name in names[1:]:
        with open(folder + b"/" + name, "wb") as f:
            f.write(content)
    os.symlink(target, b"/data/link")
    os.sync()
assert sorted(os.listdir(folder)) == sorted(names[1:])
assert all(open(folder + b"/" + name, "rb").read() == content for name in names[1:])
assert os.readlink(b"/data/link") == target
for planted in [content, target, *names]:
    print(planted.hex())
"""


def test_a_sealed_volume_tells_the_server_nothing(engine, orlop, server, store, name):
    def plant(volume, what):
        out = engine.sh("run", "--rm", "-v", f"{volume}:/data", BASE_IMAGE, "python", "-c", PLANT, name, what)
        wait_until("all of it is on the server", 30, lambda: unmounted(orlop, volume))
        return [bytes.fromhex(line) for line in out.split()]

    create(engine, orlop, store, name, "encrypt=on")
    planted = plant(name, "write")
    assert not [p for p in planted if server.holds(p)]
    assert plant(name, "read") == planted
    # The same contents without the seal are found: the search can find something. (Names are in compressed rows in any case;
    # what is inside the seal is looked at, byte by byte, by the tests of the store.)
    create(engine, orlop, store, f"{name}-plain", "compression=none")
    assert plant(f"{name}-plain", "write") == planted
    assert server.holds(planted[0])


def test_its_worker_is_killed_while_a_container_writes(engine, orlop, volume):
    box = counting(engine, volume)
    for _ in range(3):
        killed = worker(orlop, volume)
        kill(killed)
        goes_on(engine, box)
        wait_until("another worker serves", 10, lambda: worker(orlop, volume) not in (None, killed))
    assert engine.inspect("container", box)["State"]["Running"], "no write and no sync failed"


def test_a_container_goes_on_while_the_store_is_gone_and_after(engine, orlop, server, volume, sleeper):
    box = sleeper("-v", f"{volume}:/data")
    engine.exec(box, "echo before > /data/before; sync /data/before")
    syncing = counting(engine, volume)
    server.stop()
    synced = counted(engine, syncing)
    began = time.monotonic()
    engine.exec(box, "for i in $(seq 200); do echo $i > /data/f$i; done; mv /data/f1 /data/g; cat /data/before; df /data; ls /data", timeout=20)
    assert time.monotonic() - began < 10, "what needs nothing of the store does not wait"
    time.sleep(5)
    # A sync under the policy wait waits. It is not answered, and it has not failed.
    assert counted(engine, syncing) <= synced + 3 and engine.inspect("container", syncing)["State"]["Running"]
    began = time.monotonic()
    engine.docker("kill", syncing, timeout=60)
    assert time.monotonic() - began < 15, "docker kill does not wait for the store"
    server.start()
    began = time.monotonic()
    engine.exec(box, "sync /data/g", timeout=60)
    assert time.monotonic() - began < 20, "it heals by itself"
    engine.docker("start", syncing)
    assert engine.exec(box, "cat /data/g /data/f200 /data/before").split() == ["1", "200", "before"]


def test_it_is_there_again_after_down_and_up_and_on_another_host(engine, orlop, server, store, volume, base, name, binary):
    engine.sh("run", "--rm", "-v", f"{volume}:/data", BASE_IMAGE, "sh", "-ec", "echo kept > /data/x; mkdir /data/d; chown 7:8 /data/d; sync")
    orlop.down()
    assert orlop.pids() == []
    orlop.up()
    read = ["sh", "-ec", "cat /data/x; stat -c %u:%g /data/d; echo more >> /data/x"]
    assert engine.sh("run", "--rm", "-v", f"{volume}:/data", BASE_IMAGE, *read).split() == ["kept", "7:8"]
    wait_until("it is unmounted", 30, lambda: unmounted(orlop, volume))
    other = Orlop(binary, base / f"{name}-other", plugin=False)
    try:
        other.up()
        other.cli(*server.words("cloud"))
        other.cli("volume", "adopt", "found", "--store", "cloud", "--id", orlop.volume(volume)["id"])
        folder = base / f"{name}-mnt"
        folder.mkdir()
        other.cli("mount", "found", folder)
        assert (folder / "x").read_text() == "kept\nmore\n"
        other.cli("unmount", "found")
    finally:
        other.destroy()


def test_both_die_at_once_and_every_synced_line_is_there(engine, orlop, server, volume):
    """Orlop and the server are killed while a container writes; Orlop's own part of the host is all that is left beside the bucket."""
    box = counting(engine, volume)
    goes_on(engine, box)
    synced = counted(engine, box)
    server.stop()
    orlop.power_off()
    engine.docker("rm", "-f", box, timeout=180)
    server.start()
    orlop.up()
    again = engine.sh("run", "--rm", "-v", f"{volume}:/data", BASE_IMAGE, "cat", "/data/count", timeout=120)
    numbers = [int(x) for x in again.split()]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= synced
