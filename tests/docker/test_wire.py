"""The plugin protocol itself, byte for byte as dockerd speaks it."""

import json
import socket

import pytest

JSON_TYPE = "application/vnd.docker.plugins.v1.2+json"


@pytest.fixture
def call(orlop):
    """One request as dockerd sends it: an empty Host, no Content-Type, a newline after the body."""

    def send(method, body=None, raw=None):
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode() + b"\n"
        head = f"POST /{method} HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {len(data)}\r\nAccept: {JSON_TYPE}\r\nConnection: close\r\n\r\n"
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(30)
            s.connect(str(orlop.socket))
            s.sendall(head.encode() + data)
            answer = b""
            while chunk := s.recv(65536):
                answer += chunk
        head, _, rest = answer.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        if b"chunked" in head.lower():
            text, todo = b"", rest
            while todo:
                size, _, todo = todo.partition(b"\r\n")
                n = int(size, 16)
                text, todo = text + todo[:n], todo[n + 2 :]
            rest = text
        return status, json.loads(rest or b"{}")

    return send


def test_activate_with_an_empty_body(call):
    assert call("Plugin.Activate") == (200, {"Implements": ["VolumeDriver"]})


def test_capabilities_are_local(call):
    assert call("VolumeDriver.Capabilities", {}) == (200, {"Capabilities": {"Scope": "local"}})


def test_get_of_an_absent_volume_has_an_error_text(call, name):
    _, answer = call("VolumeDriver.Get", {"Name": name})
    assert name in answer["Err"]


def test_the_life_of_a_volume_in_calls(call, orlop, name):
    assert call("VolumeDriver.Create", {"Name": name, "Opts": None}) == (200, {"Err": ""})
    status, got = call("VolumeDriver.Get", {"Name": name})
    mountpoint = got["Volume"]["Mountpoint"]
    assert status == 200 and got["Volume"]["Name"] == name and mountpoint and got["Err"] == ""
    _, listed = call("VolumeDriver.List", {})
    assert name in [v["Name"] for v in listed["Volumes"]]
    assert call("VolumeDriver.Path", {"Name": name})[1]["Mountpoint"] == mountpoint

    # The same id twice is one attachment, and one Unmount ends it.
    for _ in range(2):
        assert call("VolumeDriver.Mount", {"Name": name, "ID": "a1"}) == (200, {"Mountpoint": mountpoint, "Err": ""})
    assert call("VolumeDriver.Mount", {"Name": name, "ID": "b2"})[0] == 200
    assert len(orlop.volume(name)["attachments"]) == 2
    status, refused = call("VolumeDriver.Remove", {"Name": name})
    assert status == 500 and name in refused["Err"]
    assert call("VolumeDriver.Unmount", {"Name": name, "ID": "a1"}) == (200, {"Err": ""})
    with open(f"{mountpoint}/f", "w", encoding="utf-8") as f:
        f.write("still mounted for b2")
    assert call("VolumeDriver.Unmount", {"Name": name, "ID": "b2"}) == (200, {"Err": ""})
    # An id nobody knows, as after a lost call.
    assert call("VolumeDriver.Unmount", {"Name": name, "ID": "b2"})[0] == 200
    assert call("VolumeDriver.Unmount", {"Name": name, "ID": "never"})[0] == 200
    assert orlop.volume(name)["attachments"] == []
    assert call("VolumeDriver.Remove", {"Name": name}) == (200, {"Err": ""})
    assert call("VolumeDriver.Get", {"Name": name})[1]["Err"]


def test_a_mount_id_outlives_the_daemon(call, orlop, name):
    call("VolumeDriver.Create", {"Name": name, "Opts": {}})
    call("VolumeDriver.Mount", {"Name": name, "ID": "c3"})
    orlop.kill_daemon()
    orlop.up()
    assert [a["mount_id"] for a in orlop.volume(name)["attachments"]] == ["c3"]
    assert call("VolumeDriver.Unmount", {"Name": name, "ID": "c3"})[0] == 200
    assert orlop.volume(name)["attachments"] == []


def test_creating_twice_with_the_same_options_is_dockers_race_and_succeeds(call, name):
    assert call("VolumeDriver.Create", {"Name": name, "Opts": {"size": "64M"}})[0] == 200
    assert call("VolumeDriver.Create", {"Name": name, "Opts": {"size": "64M"}})[0] == 200
    status, refused = call("VolumeDriver.Create", {"Name": name, "Opts": {"size": "65M"}})
    assert status == 500 and name in refused["Err"]


@pytest.mark.parametrize("raw", [b"{", b"[]", b'"x"', b"\xff\xfe", b'{"Name": 7}', b'{"Name": "../../etc"}', b'{"Name": ""}', b"{}"])
def test_a_request_that_is_nonsense_is_answered_with_an_error_and_changes_nothing(call, orlop, raw):
    before = [v["name"] for v in orlop.volumes("--all")]
    for method in ("Create", "Mount", "Remove"):
        status, answer = call(f"VolumeDriver.{method}", raw=raw)
        assert status >= 400 and answer["Err"], (method, answer)
    assert [v["name"] for v in orlop.volumes("--all")] == before
    assert orlop.daemon_pid


def test_a_call_that_does_not_exist_is_not_found(call):
    assert call("VolumeDriver.Snapshot", {})[0] == 404


def test_mounting_many_at_once(call, orlop, name):
    from concurrent.futures import ThreadPoolExecutor

    call("VolumeDriver.Create", {"Name": name, "Opts": None})
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: call("VolumeDriver.Mount", {"Name": name, "ID": f"id{i}"}), range(24)))
        assert all(status == 200 for status, _ in answers)
        assert len({a["Mountpoint"] for _, a in answers}) == 1
        answers = list(pool.map(lambda i: call("VolumeDriver.Unmount", {"Name": name, "ID": f"id{i}"}), range(24)))
        assert all(status == 200 for status, _ in answers)
    assert orlop.volume(name)["attachments"] == []
