"""The ground the other tests stand on: dockerd alone, without Orlop."""

from conftest import BASE_IMAGE


def test_the_base_image_runs_python_and_pip(session_engine):
    out = session_engine.sh("run", "--rm", BASE_IMAGE, "sh", "-c", "python -c 'print(6*7)'; pip --version")
    assert out.startswith("42\npip ")


def test_a_dockerd_killed_with_live_restore_finds_its_container_again(session_engine):
    engine = session_engine
    engine.restart(live_restore=True)
    box = engine.sh("run", "-d", "--init", BASE_IMAGE, "sleep", "1000")
    pid = engine.inspect("container", box)["State"]["Pid"]
    engine.kill()
    engine.start(live_restore=True)
    state = engine.inspect("container", box)["State"]
    assert state["Running"] and state["Pid"] == pid
    engine.docker("rm", "-f", box)
    engine.restart()


def test_the_application_image_builds_offline(session_engine, app_image):
    out = session_engine.sh("run", "--rm", app_image, "python", "-c", "import bottle; print(bottle.__version__)")
    assert out.startswith("0.")
