"""What is in the package, without installing it."""

import pathlib
import subprocess

from conftest import REPOSITORY
from harness.processes import run


def contents(package):
    return {line.split(None, 5)[5].removeprefix("."): line.split()[0] for line in run("dpkg-deb", "-c", package).stdout.splitlines()}


def test_it_holds_the_binary_the_units_the_completions_and_the_docs(package):
    files = contents(package)
    assert files["/usr/bin/orlop"] == "-rwxr-xr-x"
    for path in (
        "/lib/systemd/system/orlop.service",
        "/lib/systemd/system/orlop-keeper.service",
        "/etc/default/orlop",
        "/usr/share/bash-completion/completions/orlop",
        "/usr/share/zsh/vendor-completions/_orlop",
        "/usr/share/fish/vendor_completions.d/orlop.fish",
        "/usr/share/doc/orlop/copyright",
        "/usr/share/doc/orlop/changelog.gz",
        "/usr/share/doc/orlop/README.md",
    ):
        assert files.get(path) == "-rw-r--r--", path
    assert not [p for p in files if p.startswith(("/usr/local", "/var", "/home", "/root"))]


def test_its_control_data_is_complete(package):
    field = lambda name: run("dpkg-deb", "-f", package, name).stdout.strip()  # noqa: E731
    assert field("Version") == "1.0-1"
    assert "libc6" in field("Depends")
    assert "docker" in field("Recommends")
    assert int(field("Installed-Size")) > 1000


def test_the_settings_file_is_a_conffile(package, base):
    run("dpkg-deb", "-e", package, base / "control")
    assert (base / "control/conffiles").read_text() == "/etc/default/orlop\n"
    for script in ("postinst", "prerm", "postrm"):
        run("sh", "-n", base / "control" / script)


def test_checksums_match(package, base):
    root = base / "unpacked"
    run("dpkg-deb", "-R", package, root)
    done = subprocess.run(["md5sum", "--quiet", "-c", "DEBIAN/md5sums"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_building_again_gives_the_same_bytes(build, package):
    again = build("1.0-1", out="again")
    assert again.read_bytes() == package.read_bytes()


def test_systemd_accepts_the_units(package, base):
    """Against the binary in the package, so that a missing program or a misspelt setting is an error."""
    root = base / "verify"
    run("dpkg-deb", "-x", package, root)
    units = sorted(pathlib.Path(REPOSITORY / "packaging/systemd").glob("*.service"))
    assert len(units) == 2
    folder = base / "units"
    folder.mkdir()
    for unit in units:
        text = unit.read_text().replace("/usr/bin/orlop", f"{root}/usr/bin/orlop").replace("file:///usr/share/doc/orlop", f"file://{root}/usr/share/doc/orlop")
        (folder / unit.name).write_text(text)
    done = run("systemd-analyze", "verify", *sorted(folder.glob("*.service")), check=False)
    complaints = [line for line in done.stderr.splitlines() if "orlop" in line]
    assert done.returncode == 0 and not complaints, done.stderr
