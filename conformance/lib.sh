# An Orlop with one mounted volume for a suite, and its removal whatever happens. Sourced by the runners.
#
# with_volume BINARY COMMAND...: calls COMMAND with the mounted folder as its last argument. The runner's
# own EXIT trap calls clear_away. ORLOP_CACHE=fast|strict is the volume's cache mode, the default one without it.

say() { printf '    %s\n' "$*"; }

with_volume() {
    local binary=$1 status=0
    shift
    [[ $(id -u) == 0 ]] || { say "needs root"; return 1; }
    base=$(mktemp -d "${TMPDIR:-/var/tmp}/orlop-conformance.XXXXXX")
    orlop() { "$binary" "$@" --root "$base/root"; }
    trap 'exit 130' INT TERM
    mkdir "$base/mnt"
    orlop up --no-docker-plugin >/dev/null || return
    orlop volume create suite ${ORLOP_CACHE:+-o cache="$ORLOP_CACHE"} >/dev/null || return
    orlop mount suite "$base/mnt" >/dev/null || return
    "$@" "$base/mnt" || status=$?
    return "$status"
}

clear_away() {
    [[ ${base:-} ]] || return 0
    orlop down --force >/dev/null 2>&1 || true
    local pid point
    # Only processes whose command line names our own folder.
    for pid in $(grep -lsF -- "$base/root" /proc/[0-9]*/cmdline | cut -d/ -f3); do
        [[ $pid == "$$" || $pid == "$BASHPID" ]] || kill -9 "$pid" 2>/dev/null || true
    done
    awk -v below="$base/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r point; do
        umount -l "$point" 2>/dev/null || true
    done
    rm -rf --one-file-system "$base"
    base=
}
