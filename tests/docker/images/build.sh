#!/usr/bin/env bash
# Makes the images that the Docker tests and the demo run, without any image registry.
#
# An image here is a root file system that debootstrap assembles from Debian packages, kept as a tar in
# the cache folder for `docker import`. The version below is part of its file name: raise it when the
# content changes, and every machine makes the image anew.
#
#   build.sh python    the base image of the Python guides (its tag says 3.8, the interpreter is Debian's)
#   build.sh servers   PostgreSQL 15 and Redis, as Debian ships them
#   build.sh host      a small Debian host with systemd and Docker, to install the package on
#
# Prints the tar's path. Needs root, debootstrap and a Debian mirror, and only when the tar is not there.
set -euo pipefail

version=1
suite=bookworm
cache=${ORLOP_IMAGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/orlop/images}

say() { printf '    %s\n' "$*" >&2; }

# The mirror that this host's apt already uses, so that proxies and local mirrors are respected.
mirror() {
    local site
    site=$(apt-get indextargets --format '$(SITE) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null |
        awk -v suite="$suite" '$2 == suite && $3 == "main" { print $1; exit }')
    # Nothing where apt does not say: debootstrap knows Debian's own.
    printf '%s\n' "$site"
}

# bootstrap ROOT PACKAGE,PACKAGE...
bootstrap() {
    local root=$1 packages=$2 log=$1.log site
    site=$(mirror)
    if ! debootstrap --variant=minbase --cache-dir="$cache/packages" --include="$packages" \
        "$suite" "$root" ${site:+"$site"} >"$log" 2>&1; then
        tail -n 20 "$log" "$root/debootstrap/debootstrap.log" >&2 || true
        say "debootstrap failed; is the Debian mirror ${site:-that it knows} reachable?"
        return 1
    fi
    rm -rf "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* \
        "$root"/usr/share/{doc,man,locale,info,lintian} "$root"/var/log/*.log "$log"
    # A tree that lands in a container has its device nodes made by the runtime.
    find "$root/dev" -mindepth 1 -delete
    rm -f "$root"/etc/{resolv.conf,hostname}
}

# A wheel of bottle, packed from Debian's python3-bottle: what `pip install` needs to work offline.
bottle_wheel() {
    local root=$1 into=$2 dir
    dir=$(mktemp -d "$cache/wheel.XXXXXX")
    (cd "$dir" && chmod 755 . && apt-get download -qq python3-bottle >&2 && dpkg-deb -x python3-bottle_*.deb .)
    mkdir -p "$into"
    /usr/bin/python3 "$here/wheel.py" "$dir/usr/lib/python3/dist-packages" bottle "$into"
    rm -rf "$dir"
}

python_image() {
    local root=$1
    bootstrap "$root" ca-certificates,python3,python3-pip,python3-setuptools,python3-wheel
    ln -s python3 "$root/usr/bin/python"
    # The official image lets pip install into the system; Debian's marker would forbid it.
    rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
    bottle_wheel "$root" "$root/opt/wheels"
    printf '[global]\nno-index = true\nfind-links = /opt/wheels\nno-cache-dir = true\nroot-user-action = ignore\ndisable-pip-version-check = true\n' \
        >"$root/etc/pip.conf"
}

servers_image() {
    local root=$1
    bootstrap "$root" postgresql-15,redis-server
    ln -s ../lib/postgresql/15/bin/postgres ../lib/postgresql/15/bin/initdb ../lib/postgresql/15/bin/pg_ctl "$root/usr/bin/"
    # Its volume starts empty, as the official image's does.
    rm -rf "$root"/var/lib/postgresql/15
}

host_image() {
    local root=$1
    bootstrap "$root" systemd,systemd-sysv,dbus,docker.io,iproute2,procps,ca-certificates
    # What needs a machine of its own, or only takes time.
    ln -sf /dev/null "$root/etc/systemd/system/systemd-udevd.service"
    ln -sf /dev/null "$root/etc/systemd/system/apt-daily.timer"
    ln -sf /dev/null "$root/etc/systemd/system/apt-daily-upgrade.timer"
    ln -sf /dev/null "$root/etc/systemd/system/e2scrub_all.timer"
    : >"$root/etc/machine-id"
}

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
case ${1:-} in
    python | servers | host) image=$1 ;;
    *) sed -n '2,14s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
tar=$cache/$image-$suite-$version.tar
if [[ ! -s $tar ]]; then
    [[ $(id -u) == 0 ]] || { say "making images needs root"; exit 1; }
    command -v debootstrap >/dev/null || { say "debootstrap is missing: run ./dev setup"; exit 1; }
    mkdir -p "$cache/packages"
    # Two runs at once wait for each other instead of making the same image twice.
    exec 9>"$cache/lock"
    flock 9
    if [[ ! -s $tar ]]; then
        work=$(mktemp -d "$cache/$image.XXXXXX")
        trap 'rm -rf "$work"' EXIT
        say "making the image '$image' from Debian packages (about a minute, once)"
        mkdir "$work/root"
        "${image}_image" "$work/root"
        tar --numeric-owner --one-file-system -C "$work/root" -cf "$work/image.tar" .
        mv "$work/image.tar" "$tar"
    fi
fi
printf '%s\n' "$tar"
