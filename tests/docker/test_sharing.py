"""Several containers on one volume, and read-only mounts."""

from conftest import BASE_IMAGE
from harness.processes import wait_until


def test_a_write_is_seen_by_the_other_containers_at_once(engine, orlop, volume, sleeper):
    boxes = [sleeper("-v", f"{volume}:/data") for _ in range(3)]
    for i, box in enumerate(boxes):
        engine.exec(box, f"echo {i} >> /data/log")
    for box in boxes:
        assert engine.exec(box, "cat /data/log") == "0\n1\n2"
    engine.exec(boxes[0], "mv /data/log /data/moved; ln /data/moved /data/hard")
    assert engine.exec(boxes[1], "stat -c %h /data/moved; ls /data") == "2\nhard\nmoved"


def test_the_volume_stays_until_its_last_container_goes(engine, orlop, volume, sleeper):
    first, second = sleeper("-v", f"{volume}:/data"), sleeper("-v", f"{volume}:/data")
    assert len(orlop.volume(volume)["attachments"]) == 2
    engine.docker("rm", "-f", first)
    engine.exec(second, "echo still > /data/here; cat /data/here")
    assert len(orlop.volume(volume)["attachments"]) == 1
    engine.docker("rm", "-f", second)
    assert orlop.volume(volume)["attachments"] == []


def test_locks_exclude_each_other_across_containers(engine, orlop, volume, sleeper):
    holder, other = sleeper("-v", f"{volume}:/data"), sleeper("-v", f"{volume}:/data")
    engine.docker("exec", "-d", holder, "flock", "/data/lock", "sh", "-c", "echo held > /data/state; sleep 1000")
    wait_until("the lock is held", 15, lambda: engine.docker("exec", other, "test", "-s", "/data/state", check=False).returncode == 0)
    assert engine.docker("exec", other, "flock", "-n", "/data/lock", "true", check=False).returncode == 1
    posix = "import fcntl; f=open('/data/p','w'); fcntl.lockf(f, fcntl.LOCK_EX|fcntl.LOCK_NB); print('locked', flush=True); import time; time.sleep(1000)"
    engine.docker("exec", "-d", holder, "sh", "-c", f"python -c \"{posix}\" > /data/posix")
    wait_until("the range is locked", 15, lambda: engine.docker("exec", other, "test", "-s", "/data/posix", check=False).returncode == 0)
    refused = engine.docker("exec", other, "python", "-c", posix, check=False)
    assert refused.returncode != 0 and "BlockingIOError" in refused.stderr
    engine.docker("rm", "-f", holder)
    assert engine.docker("exec", other, "flock", "-n", "/data/lock", "true", check=False).returncode == 0


def test_appends_from_several_containers_do_not_mix(engine, orlop, volume):
    script = "for i in $(seq 300); do echo \"$0 $i\" >> /data/log; done"
    boxes = [engine.sh("run", "-d", "-v", f"{volume}:/data", BASE_IMAGE, "sh", "-c", script, f"w{n}") for n in range(3)]
    for box in boxes:
        assert engine.sh("wait", box, timeout=180) == "0"
    lines = engine.sh("run", "--rm", "-v", f"{volume}:/data", BASE_IMAGE, "cat", "/data/log").splitlines()
    assert sorted(lines) == sorted(f"w{n} {i}" for n in range(3) for i in range(1, 301))
    for n in range(3):
        assert [x for x in lines if x.startswith(f"w{n} ")] == [f"w{n} {i}" for i in range(1, 301)]


def test_a_shared_memory_map_is_one_memory(engine, orlop, volume, sleeper):
    one, two = sleeper("-v", f"{volume}:/data"), sleeper("-v", f"{volume}:/data")
    write = "import mmap; f=open('/data/m','r+b'); m=mmap.mmap(f.fileno(),8192); m[5000:5003]=b'abc'; m.flush()"
    read = "import mmap; f=open('/data/m','rb'); m=mmap.mmap(f.fileno(),8192,prot=mmap.PROT_READ); print(m[5000:5003])"
    engine.exec(one, "truncate -s 8192 /data/m")
    engine.docker("exec", one, "python", "-c", write)
    assert engine.sh("exec", two, "python", "-c", read) == "b'abc'"


def test_a_read_only_mount_refuses_every_change(engine, orlop, volume, sleeper):
    writer = sleeper("-v", f"{volume}:/data")
    engine.exec(writer, "echo x > /data/f")
    reader = sleeper("-v", f"{volume}:/data:ro")
    assert engine.exec(reader, "cat /data/f") == "x"
    for change in ("touch /data/g", "echo y > /data/f", "rm /data/f", "mkdir /data/d", "chmod 0 /data/f", "ln /data/f /data/h", "mv /data/f /data/g"):
        refused = engine.docker("exec", reader, "sh", "-c", change, check=False)
        assert refused.returncode != 0 and "Read-only file system" in refused.stderr, change
    engine.exec(writer, "echo z > /data/f")
    assert engine.exec(reader, "cat /data/f") == "z"


def test_read_only_first_and_writable_next(engine, orlop, volume, sleeper):
    reader = sleeper("-v", f"{volume}:/data:ro")
    writer = sleeper("-v", f"{volume}:/data")
    engine.exec(writer, "echo late > /data/f")
    assert engine.exec(reader, "cat /data/f") == "late"


def test_volumes_from_another_container(engine, orlop, volume, sleeper):
    first = sleeper("-v", f"{volume}:/data")
    engine.exec(first, "echo x > /data/f")
    assert engine.sh("run", "--rm", "--volumes-from", first, BASE_IMAGE, "cat", "/data/f") == "x"


def test_one_container_with_many_volumes(engine, orlop, name):
    names = [f"{name}-{i}" for i in range(6)]
    for n in names:
        engine.docker("volume", "create", "-d", orlop.driver, n)
    args = [x for i, n in enumerate(names) for x in ("-v", f"{n}:/data/{i}")]
    out = engine.sh("run", "--rm", *args, BASE_IMAGE, "sh", "-c", "for i in 0 1 2 3 4 5; do echo $i > /data/$i/f; done; cat /data/*/f")
    assert out.split() == list("012345")
    for i, n in enumerate(names):
        assert orlop.cli("cat", f"{n}:/f").stdout == f"{i}\n"
