# shellcheck shell=bash
# What every script of the rig needs: where things are, how to speak and how to fail. Sourced, not run.

# Everything fetched or built for the guests. Nothing in it is precious: any part may be removed and is fetched again.
cache=${DPFS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dpfs}


# Guest memory is a shared file; anywhere but in RAM it would be written back to a disk all the time.
shm=${DPFS_SHM:-/dev/shm}

# depmod and modprobe, for users who are not root.
PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
    say "$*"
    exit 2
}

# with_lock NAME COMMAND...: one process at a time runs COMMAND under NAME. The descriptor is closed for the
# command's own children: a child that outlives it must not keep the lock.
with_lock() {
    local file=$cache/locks/$1
    shift
    mkdir -p "$cache/locks"
    (
        if ! flock --nonblock 9; then
            say "waiting for another run (${file##*/})"
            flock 9
        fi
        "$@" 9>&-
    ) 9>"$file"
}
