"""Options given through Docker: what they do, and what becomes of wrong ones."""

import pytest
from conftest import BASE_IMAGE


def create(engine, orlop, name, *options, check=True):
    args = [x for option in options for x in ("-o", option)]
    return engine.docker("volume", "create", "-d", orlop.driver, *args, name, check=check)


def test_uid_gid_and_mode_make_the_root_folder(engine, orlop, name):
    create(engine, orlop, name, "uid=999", "gid=998", "mode=2770")
    assert engine.sh("run", "--rm", "-v", f"{name}:/fresh", BASE_IMAGE, "stat", "-c", "%u %g %a", "/fresh") == "999 998 2770"
    out = engine.sh("run", "--rm", "-u", "999:998", "-v", f"{name}:/fresh", BASE_IMAGE, "sh", "-c", "touch /fresh/f && stat -c %u:%g /fresh/f")
    assert out == "999:998"


def test_an_unprivileged_container_writes_where_the_mode_lets_it(engine, orlop, name):
    create(engine, orlop, name, "mode=1777")
    assert engine.sh("run", "--rm", "-u", "1234:1234", "-v", f"{name}:/fresh", BASE_IMAGE, "sh", "-c", "echo ok > /fresh/f; cat /fresh/f") == "ok"
    create(engine, orlop, f"{name}-closed")
    refused = engine.docker("run", "--rm", "-u", "1234:1234", "-v", f"{name}-closed:/fresh", BASE_IMAGE, "touch", "/fresh/f", check=False)
    assert refused.returncode != 0 and "Permission denied" in refused.stderr


def test_size_is_what_df_shows_and_what_writing_meets(engine, orlop, name):
    create(engine, orlop, name, "size=32M")
    box = engine.sh("run", "-d", "--init", "-v", f"{name}:/data", BASE_IMAGE, "sleep", "1000")
    assert engine.exec(box, "df -B1 --output=size /data | tail -1").strip() == str(32 << 20)
    full = engine.docker("exec", box, "dd", "if=/dev/zero", "of=/data/big", "bs=1M", "count=64", check=False)
    assert full.returncode != 0 and ("Disk quota exceeded" in full.stderr or "No space left" in full.stderr)
    size = int(engine.exec(box, "stat -c %s /data/big"))
    assert size <= 32 << 20
    engine.exec(box, "rm /data/big && dd if=/dev/zero of=/data/small bs=1M count=20 conv=fsync 2>/dev/null")
    assert orlop.volume(name)["usage"]["used_bytes"] >= 20 << 20
    orlop.cli("volume", "set", name, "-o", "size=96M")
    engine.exec(box, "dd if=/dev/zero of=/data/more bs=1M count=60 conv=fsync 2>/dev/null")
    assert engine.exec(box, "df -B1 --output=size /data | tail -1").strip() == str(96 << 20)


@pytest.mark.parametrize(
    "option, named, remedy",
    [
        ("sise=1G", '"sise"', "known options"),
        ("size=big", "size=big", "10G"),
        ("size=0", "size=0", "1M"),
        ("mode=999", "mode=999", "mode=0755"),
        ("uid=root", "uid=root", ""),
        ("retention=soon", "retention=soon", ""),
        ("store=nowhere", "nowhere", ""),
        ("cache=warp", "warp", "strict"),
    ],
)
def test_a_wrong_option_is_refused_and_the_user_reads_why(engine, orlop, name, option, named, remedy):
    refused = create(engine, orlop, name, option, check=False)
    assert refused.returncode != 0
    assert named in refused.stderr and remedy in refused.stderr, refused.stderr
    assert name not in engine.sh("volume", "ls", "-q").split()
    assert name not in [v["name"] for v in orlop.volumes()]


@pytest.mark.parametrize("option", ["encrypt=on", "durability=remote", "compression=zstd"])
def test_a_promise_that_cannot_be_kept_yet_is_refused(engine, orlop, name, option):
    """Either the feature works and shows, or the volume is refused; never a silent nothing."""
    done = create(engine, orlop, name, option, check=False)
    if done.returncode == 0:
        key, value = option.split("=")
        assert engine.inspect("volume", name)["Status"]["Options"][key] == value
    else:
        assert option.split("=")[0] in done.stderr
        assert name not in [v["name"] for v in orlop.volumes()]


def test_creating_an_existing_name_changes_nothing_and_shows_the_true_options(engine, orlop, name):
    create(engine, orlop, name, "size=64M", "mode=0711")
    # dockerd only asks whether the name exists, and drops the new options.
    create(engine, orlop, name, "size=128M", check=False)
    shown = engine.inspect("volume", name)
    assert shown["Status"]["Options"] == {"size": str(64 << 20), "mode": "0711"}
    assert orlop.volume(name)["options"]["size"] == 64 << 20


@pytest.mark.parametrize("bad", ["-x", "a b", ".hidden", "ä", "a/b", "x" * 256])
def test_a_name_that_docker_cannot_have_is_refused_by_orlop_too(orlop, bad):
    refused = orlop.cli("volume", "create", "--", bad, check=False)
    assert refused.returncode != 0 and "name" in refused.stderr and "letter or digit" in refused.stderr, refused.stderr
