"""Removed is not lost: trash, restore, protection, the same name again."""

from conftest import BASE_IMAGE


def write(engine, volume, text):
    engine.docker("run", "--rm", "-v", f"{volume}:/data", BASE_IMAGE, "sh", "-c", f"echo {text} > /data/f")


def read(engine, volume):
    return engine.sh("run", "--rm", "-v", f"{volume}:/data", BASE_IMAGE, "sh", "-c", "cat /data/f 2>/dev/null || true")


def test_the_same_name_again_is_empty_beside_the_olds_trash(engine, orlop, volume):
    write(engine, volume, "old")
    old = orlop.volume(volume)["id"]
    engine.docker("volume", "rm", volume)
    engine.docker("volume", "create", "-d", orlop.driver, volume)
    assert read(engine, volume) == ""
    write(engine, volume, "new")
    states = {v["id"]: v["state"] for v in orlop.volumes("--all") if v["name"] == volume}
    assert states.pop(old) == "removed" and list(states.values()) == ["active"]
    orlop.cli("volume", "restore", old, "--as", f"{volume}-back")
    assert read(engine, f"{volume}-back") == "old"
    assert read(engine, volume) == "new"


def test_a_removed_volume_comes_back_with_its_data_and_options(engine, orlop, name):
    engine.docker("volume", "create", "-d", orlop.driver, "-o", "size=64M", name)
    write(engine, name, "kept")
    engine.docker("volume", "rm", name)
    assert name not in engine.sh("volume", "ls", "-q").split()
    orlop.cli("volume", "restore", name)
    assert read(engine, name) == "kept"
    assert engine.inspect("volume", name)["Status"]["Options"] == {"size": str(64 << 20)}


def test_restoring_over_a_taken_name_is_refused_with_the_remedy(engine, orlop, volume):
    old = orlop.volume(volume)["id"]
    engine.docker("volume", "rm", volume)
    engine.docker("volume", "create", "-d", orlop.driver, volume)
    refused = orlop.cli("volume", "restore", old, check=False)
    assert refused.returncode != 0 and "--as" in refused.stderr


def test_a_protected_volume_refuses_docker_volume_rm_and_says_how_to_lift_it(engine, orlop, volume):
    orlop.cli("volume", "protect", volume)
    refused = engine.docker("volume", "rm", volume, check=False)
    assert refused.returncode != 0
    assert "protect" in refused.stderr and volume in refused.stderr and "orlop volume protect" in refused.stderr, refused.stderr
    assert volume in engine.sh("volume", "ls", "-q").split()
    orlop.cli("volume", "protect", volume, "--off")
    engine.docker("volume", "rm", volume)


def test_protection_given_at_creation_holds(engine, orlop, name):
    engine.docker("volume", "create", "-d", orlop.driver, "-o", "protect=on", name)
    assert engine.docker("volume", "rm", name, check=False).returncode != 0
    assert engine.inspect("volume", name)["Status"]["Protected"] is True
    orlop.cli("volume", "protect", name, "--off")
    engine.docker("volume", "rm", name)


def test_now_leaves_nothing_to_restore(engine, orlop, volume):
    write(engine, volume, "gone")
    engine.docker("volume", "rm", volume)
    engine.docker("volume", "create", "-d", orlop.driver, volume)
    write(engine, volume, "too")
    state = orlop.root / "state" / orlop.volume(volume)["id"]
    assert state.exists()
    orlop.cli("volume", "remove", volume, "--now")
    assert not state.exists()
    assert len([v for v in orlop.volumes("--all") if v["name"] == volume]) == 1


def test_orlop_refuses_to_remove_a_volume_in_use_naming_the_holder(engine, orlop, volume, sleeper):
    sleeper("-v", f"{volume}:/data")
    refused = orlop.cli("volume", "remove", volume, check=False)
    assert refused.returncode != 0 and volume in refused.stderr and "ocker" in refused.stderr
    assert orlop.volume(volume)["state"] == "active"
