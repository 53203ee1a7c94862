"""The Python SDK, as its documentation uses it."""

import pytest
from conftest import BASE_IMAGE

import docker


@pytest.fixture
def client(engine):
    client = engine.sdk()
    yield client
    client.close()


def test_a_volume_is_created_used_and_removed(client, orlop, name):
    volume = client.volumes.create(name=name, driver=orlop.driver, driver_opts={"size": "64M", "mode": "1777"}, labels={"tier": "db"})
    assert volume.name == name
    assert volume.attrs["Driver"] == orlop.driver
    # dockerd answers a create from its cache, which has no mountpoint yet.
    volume.reload()
    assert volume.attrs["Mountpoint"]
    assert volume.attrs["Labels"] == {"tier": "db"}

    out = client.containers.run(BASE_IMAGE, ["sh", "-c", "echo kept > /data/f && stat -c %a /data"], volumes={name: {"bind": "/data", "mode": "rw"}}, remove=True)
    assert out == b"1777\n"
    out = client.containers.run(BASE_IMAGE, ["cat", "/data/f"], volumes={name: {"bind": "/data", "mode": "ro"}}, remove=True)
    assert out == b"kept\n"

    again = client.volumes.get(name)
    assert again.attrs["Status"]["Options"] == {"size": str(64 << 20), "mode": "1777"}
    assert name in [v.name for v in client.volumes.list()]
    again.remove()
    with pytest.raises(docker.errors.NotFound):
        client.volumes.get(name)


def test_two_containers_share_through_the_sdk(client, orlop, name):
    client.volumes.create(name=name, driver=orlop.driver)
    mounts = {name: {"bind": "/data", "mode": "rw"}}
    writer = client.containers.run(BASE_IMAGE, ["sh", "-c", "echo hello > /data/f; sleep 1000"], volumes=mounts, detach=True, init=True)
    reader = client.containers.run(BASE_IMAGE, ["sleep", "1000"], volumes={name: {"bind": "/in", "mode": "ro"}}, detach=True, init=True)
    code, out = reader.exec_run(["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do [ -s /in/f ] && break; sleep 0.2; done; cat /in/f"])
    assert (code, out) == (0, b"hello\n")
    code, out = reader.exec_run(["touch", "/in/g"])
    assert code != 0 and b"Read-only file system" in out
    for container in (writer, reader):
        container.remove(force=True)


def test_a_bad_option_is_an_api_error_that_says_why(client, orlop, name):
    with pytest.raises(docker.errors.APIError) as caught:
        client.volumes.create(name=name, driver=orlop.driver, driver_opts={"sise": "1G"})
    assert '"sise" is unknown' in str(caught.value) and "known options" in str(caught.value)


def test_archives_go_in_and_out(client, orlop, name, tmp_path):
    import io
    import tarfile

    client.volumes.create(name=name, driver=orlop.driver)
    box = client.containers.create(BASE_IMAGE, ["sleep", "1000"], volumes={name: {"bind": "/data", "mode": "rw"}})
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        info = tarfile.TarInfo("seed.bin")
        info.size, info.uid, info.gid, info.mode = 300_000, 1000, 1000, 0o640
        tar.addfile(info, io.BytesIO(bytes(range(250)) * 1200))
    assert box.put_archive("/data", packed.getvalue())
    stream, stat = box.get_archive("/data/seed.bin")
    assert stat["size"] == 300_000
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        member = tar.getmember("seed.bin")
        assert (member.uid, member.gid, member.mode & 0o7777) == (1000, 1000, 0o640)
        assert tar.extractfile(member).read() == bytes(range(250)) * 1200
    box.remove()
