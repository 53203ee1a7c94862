"""The workflow that every Docker guide teaches, with the docker command line."""

import json

from conftest import BASE_IMAGE
from harness.processes import wait_until

POST = "import sys,urllib.request as u; u.urlopen('http://127.0.0.1:8000/notes', sys.argv[1].encode()).read()"
GET = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/notes').read().decode(), end='')"


def serving(engine, container):
    """Waits until the application answers in its container."""
    wait_until("the application answers", 30, lambda: engine.docker("exec", container, "python", "-c", GET, check=False).returncode == 0, every=0.3)


def test_an_application_keeps_its_data_when_its_container_is_replaced(engine, orlop, app_image, name):
    engine.docker("volume", "create", "-d", orlop.driver, name)
    first = engine.sh("run", "-d", "-v", f"{name}:/data", app_image)
    serving(engine, first)
    engine.docker("exec", first, "python", "-c", POST, "buy rope")
    engine.docker("exec", first, "python", "-c", POST, "mend the sail ⛵")
    engine.docker("rm", "-f", first)

    second = engine.sh("run", "-d", "-v", f"{name}:/data", app_image)
    serving(engine, second)
    assert engine.sh("exec", second, "python", "-c", GET) == "buy rope\nmend the sail ⛵"
    assert orlop.cli("cat", f"{name}:/notes.txt").stdout == "buy rope\nmend the sail ⛵\n"


def test_volume_ls_and_inspect_show_the_volume(engine, orlop, volume):
    listed = engine.sh("volume", "ls", "--format", "{{.Driver}} {{.Name}}").splitlines()
    assert f"{orlop.driver} {volume}" in listed
    shown = engine.inspect("volume", volume)
    assert shown["Driver"] == orlop.driver
    assert shown["Scope"] == "local"
    assert shown["Mountpoint"].startswith(str(orlop.root))
    assert shown["Status"]["Attachments"] == []
    assert shown["CreatedAt"].startswith("20")


def test_inspect_shows_who_uses_the_volume(engine, orlop, volume, sleeper):
    box = sleeper("-v", f"{volume}:/data")
    shown = engine.inspect("volume", volume)
    assert len(shown["Status"]["Attachments"]) == 1
    assert shown["Status"]["State"] == "mounted"
    engine.docker("rm", "-f", box)
    assert engine.inspect("volume", volume)["Status"]["Attachments"] == []


def test_exec_and_cp_both_ways(engine, orlop, volume, sleeper, tmp_path):
    box = sleeper("-v", f"{volume}:/data")
    engine.exec(box, "mkdir /data/sub && echo inside > /data/sub/made")
    (tmp_path / "sent").write_text("from the host\n")
    engine.docker("cp", tmp_path / "sent", f"{box}:/data/sub/sent")
    assert engine.exec(box, "cat /data/sub/sent") == "from the host"
    engine.docker("cp", f"{box}:/data/sub", tmp_path / "back")
    assert (tmp_path / "back/made").read_text() == "inside\n"
    assert (tmp_path / "back/sent").read_text() == "from the host\n"


def test_cp_into_a_container_that_was_only_created(engine, orlop, volume, tmp_path):
    (tmp_path / "seed").write_text("planted\n")
    box = engine.sh("create", "-v", f"{volume}:/data", BASE_IMAGE, "cat", "/data/seed")
    engine.docker("cp", tmp_path / "seed", f"{box}:/data/seed")
    assert orlop.volume(volume)["attachments"] == []
    assert engine.sh("start", "-a", box) == "planted"


def test_run_creates_a_volume_that_is_not_there(engine, orlop, name):
    out = engine.sh("run", "--rm", "--volume-driver", orlop.driver, "-v", f"{name}:/data", BASE_IMAGE, "sh", "-c", "echo x > /data/f; cat /data/f")
    assert out == "x"
    assert orlop.volume(name)["name"] == name


def test_the_mount_syntax_creates_and_mounts_too(engine, orlop, name):
    mount = f"type=volume,source={name},target=/data,volume-driver={orlop.driver},volume-opt=uid=7"
    assert engine.sh("run", "--rm", "--mount", mount, BASE_IMAGE, "stat", "-c", "%u", "/data") == "7"
    assert orlop.volume(name)["options"]["uid"] == 7


def test_a_volume_in_use_is_not_removed_and_a_free_one_is(engine, orlop, volume, sleeper):
    box = sleeper("-v", f"{volume}:/data")
    refused = engine.docker("volume", "rm", volume, check=False)
    assert refused.returncode != 0 and "volume is in use" in refused.stderr
    engine.docker("rm", "-f", box)
    engine.docker("volume", "rm", volume)
    assert volume not in engine.sh("volume", "ls", "-q").split()
    assert engine.docker("volume", "inspect", volume, check=False).returncode != 0


def test_prune_does_not_touch_the_volumes(engine, orlop, volume):
    engine.docker("volume", "prune", "-f")
    assert orlop.volume(volume)["state"] == "active"


def test_every_step_stands_in_the_audit_journal(engine, orlop, volume):
    engine.docker("run", "--rm", "-v", f"{volume}:/data", BASE_IMAGE, "true")
    engine.docker("volume", "rm", volume)
    listed = orlop.json("audit", "list")
    events = listed["events"] if isinstance(listed, dict) else listed
    ours = [e for e in events if e["target"] == volume]
    verbs = [e["verb"] for e in ours if e["phase"] == "done"]
    assert verbs[0] == "volume.create" and verbs[-1] == "volume.remove"
    assert verbs.count("volume.attach") == verbs.count("volume.detach") > 0
    assert {e["actor"]["kind"] for e in ours} == {"docker"}
    orlop.cli("audit", "verify")


def test_removing_a_container_lets_the_volume_go(engine, orlop, volume, sleeper):
    box = sleeper("-v", f"{volume}:/data")
    mountpoint = engine.inspect("volume", volume)["Mountpoint"]
    assert mountpoint in open("/proc/self/mountinfo", encoding="utf-8").read()
    engine.docker("rm", "-f", box)
    assert mountpoint not in open("/proc/self/mountinfo", encoding="utf-8").read()


def test_volume_list_of_orlop_and_docker_agree(engine, orlop, volume):
    ours = {v["name"] for v in orlop.volumes() if v["state"] == "active"}
    docker = {v["Name"] for v in map(json.loads, engine.sh("volume", "ls", "--format", "{{json .}}").splitlines()) if v["Driver"] == orlop.driver}
    assert ours == docker and volume in ours
