"""Installing, booting, upgrading and removing on a Debian host with systemd and Docker."""

from harness.processes import wait_until

COUNTER = "i=0; while true; do i=$((i+1)); echo $i >> /data/count || exit 9; sync /data/count || exit 8; sleep 0.05; done"


def counter(host):
    """Starts a container that counts on a volume."""
    host.sh("docker volume create -d orlop numbers")
    host.run("docker", "run", "-d", "--name", "counter", "--restart", "always", "--network", "none", "-v", "numbers:/data", "tiny", "/bin/sh", "-c", COUNTER)
    wait_until("it counts", 20, lambda: count(host) > 3, every=0.3)


def count(host):
    text = host.sh("docker exec counter cat /data/count 2>/dev/null || true")
    numbers = [int(x) for x in text.split()]
    return len(numbers)


def gapless(host):
    numbers = [int(x) for x in host.sh("docker exec counter cat /data/count").split()]
    assert numbers == list(range(1, len(numbers) + 1)), "a line is lost, doubled or torn"
    return len(numbers)


def goes_on(host):
    before = gapless(host)
    wait_until("it goes on counting", 20, lambda: gapless(host) > before + 3, every=0.3)


def test_installing_starts_it_and_docker_can_use_it(host):
    for unit in ("orlop.service", "orlop-keeper.service"):
        assert host.sh(f"systemctl is-active {unit}; systemctl is-enabled {unit}") == "active\nenabled"
    out = host.sh("docker volume create -d orlop mydata; docker run --rm --network none -v mydata:/data tiny /bin/sh -c 'echo kept > /data/f; cat /data/f'")
    assert out == "mydata\nkept"
    assert host.sh("orlop cat mydata:/f") == "kept"
    assert host.sh("stat -c '%a %U' /var/lib/orlop") == "711 root"
    assert host.sh("systemctl is-system-running") == "running"


def test_at_boot_orlop_is_ready_before_docker_starts(host):
    assert "docker.service" in host.sh("systemctl show -P Before orlop.service").split()
    counter(host)
    host.reboot()
    wait_until("the container is back", 60, lambda: host.sh("docker inspect -f '{{.State.Running}}' counter") == "true", every=0.5)
    ready, docker = (int(host.sh(f"systemctl show -P {p} {u}")) for p, u in (("ActiveEnterTimestampMonotonic", "orlop.service"), ("ExecMainStartTimestampMonotonic", "docker.service")))
    assert 0 < ready <= docker
    wait_until("it counts on", 20, lambda: count(host) > 3, every=0.3)
    assert host.sh("docker volume inspect -f '{{.Driver}}' numbers") == "orlop"
    assert host.sh("docker volume ls -q -f driver=local") == ""


def test_a_power_cut_loses_no_synced_line(host):
    counter(host)
    acknowledged = count(host)
    host.sh("docker update --restart no counter")
    host.cut_power()
    host.sh("docker start counter")
    numbers = [int(x) for x in host.sh("orlop cat numbers:/count").split()]
    assert numbers[:acknowledged] == list(range(1, acknowledged + 1))
    host.sh("orlop audit verify")


def test_a_clean_shutdown_leaves_nothing_to_recover(host):
    counter(host)
    host.reboot()
    assert host.sh("systemctl is-failed orlop.service orlop-keeper.service || true") == "active\nactive"
    host.sh("orlop doctor")


def test_the_daemon_comes_back_by_itself_and_containers_do_not_notice(host):
    counter(host)
    old = host.pid("orlop.service")
    host.sh(f"kill -9 {old}")
    goes_on(host)
    wait_until("the daemon is back", 20, lambda: host.pid("orlop.service") not in (0, old), every=0.2)
    goes_on(host)
    host.sh("systemctl stop orlop.service")
    goes_on(host)
    host.sh("systemctl start orlop.service")
    assert host.sh("docker volume inspect -f '{{.Driver}}' numbers") == "orlop"


def test_an_upgrade_while_a_container_writes(host, newer_package):
    counter(host)
    daemon, keeper = host.pid("orlop.service"), host.pid("orlop-keeper.service")
    workers = host.sh("pgrep -f '^/usr/bin/orlop worker'")
    container = host.sh("docker inspect -f '{{.State.Pid}}' counter")
    host.install(newer_package)
    assert host.sh("dpkg-query -W -f '${Version}' orlop") == "1.0-2"
    goes_on(host)
    assert host.pid("orlop.service") not in (0, daemon), "the daemon is the new one"
    assert host.pid("orlop-keeper.service") == keeper, "the keeper is left alone"
    assert host.sh("pgrep -f '^/usr/bin/orlop worker'") == workers
    assert host.sh("docker inspect -f '{{.State.Pid}} {{.RestartCount}}' counter") == f"{container} 0"
    # The new daemon and the old keeper understand each other.
    host.sh("docker volume create -d orlop more; docker run --rm --network none -v more:/data tiny /bin/touch /data/f")


def test_removal_is_refused_while_a_container_uses_a_volume(host):
    counter(host)
    refused = host.run("dpkg", "-r", "orlop", check=False)
    assert refused.returncode != 0
    assert "numbers" in refused.stdout + refused.stderr and "stop the containers" in refused.stdout + refused.stderr
    goes_on(host)
    assert host.sh("systemctl is-active orlop.service") == "active"


def test_removal_and_purge_keep_the_data_and_say_where(host, package):
    host.sh("docker volume create -d orlop mydata; docker run --rm --network none -v mydata:/data tiny /bin/sh -c 'echo kept > /data/f'")
    removed = host.run("dpkg", "-r", "orlop")
    assert "/var/lib/orlop" in removed.stdout
    assert host.sh("pgrep -x orlop || true") == ""
    assert host.sh("grep orlop /proc/mounts | grep fuse || true") == ""
    assert host.sh("systemctl list-unit-files 'orlop*' --state=enabled --no-legend || true") == ""

    purged = host.run("dpkg", "-P", "orlop")
    assert "only copy" in purged.stdout and "rm -r /var/lib/orlop" in purged.stdout
    assert host.sh("ls /etc/default/orlop 2>/dev/null || true") == ""
    assert host.sh("find /etc/systemd /lib/systemd -name '*orlop*'") == ""

    host.install(package)
    assert host.sh("orlop cat mydata:/f") == "kept"
    assert host.sh("docker run --rm --network none -v mydata:/data tiny /bin/cat /data/f") == "kept"


def test_purging_an_install_that_was_never_used_leaves_nothing(bare_host, package):
    bare_host.run("dpkg", "--unpack", f"/packages/{package.name}")
    bare_host.run("dpkg", "-P", "orlop")
    assert bare_host.sh("find /etc /usr /lib/systemd -name '*orlop*'") == ""


def test_settings_are_respected_and_survive_an_upgrade(host, newer_package):
    host.sh("echo ORLOP_PLUGIN_NAME=cellar >> /etc/default/orlop; systemctl restart orlop.service")
    assert host.sh("docker volume create -d cellar wine") == "wine"
    host.run("dpkg", "--force-confold", "-i", f"/packages/{newer_package.name}")
    assert host.sh("docker volume inspect -f '{{.Driver}}' wine") == "cellar"


def test_without_systemd_it_installs_and_runs_by_hand(engine, package):
    """As in a chroot or a plain container: nothing is started, nothing fails."""
    box = engine.sh("run", "-d", "--init", "--cap-add", "SYS_ADMIN", "--device", "/dev/fuse", "--security-opt", "apparmor=unconfined",
                    "-v", "/var/lib/orlop", "-v", f"{package.parent}:/packages:ro", "orlop-test/host", "sleep", "1000")  # fmt: skip
    try:
        engine.exec(box, f"dpkg -i /packages/{package.name}")
        assert engine.exec(box, "pgrep -x orlop || true") == ""
        engine.exec(box, "orlop up --no-docker-plugin && orlop volume create v && mkdir /m && orlop mount v /m && echo x > /m/f && orlop unmount /m && orlop cat v:/f")
        engine.exec(box, "orlop down && dpkg -P orlop && test -e /var/lib/orlop/orlop.db")
    finally:
        engine.docker("rm", "-f", "-v", box, check=False)
