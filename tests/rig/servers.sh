# shellcheck shell=bash
# Starts the servers that benches compare, one at a time, and ends them by their process ids. Sourced after lib.sh by
# scripts that set:
#   rig      this folder
#   tmp      a folder for sockets and logs
#   dpfs     the daemon
#   pin      a command that the server runs under (taskset...), or nothing
#   inside   a command that runs another one where the NFS server and its clients are (ip netns exec...), or nothing
# The device's tag is "bench". The caller's cleanup calls end_server.

# Process groups: virtiofsd's work is done by a child in namespaces of its own, which outlives its parent.
servers=()

# start_server NAME COMMAND...: in the background, as a group of its own, with its output in $tmp/NAME.log.
start_server() {
    local name=$1
    shift
    setsid "$@" >"$tmp/$name.log" 2>&1 </dev/null &
    servers+=($!)
}

# wait_for_socket NAME SOCKET: until the server of that name listens.
wait_for_socket() {
    local i
    for ((i = 0; i < 500; i++)); do
        [[ ! -S $2 ]] || return 0
        kill -0 "${servers[-1]}" 2>/dev/null || break
        sleep 0.02
    done
    tail -n 20 "$tmp/$1.log" >&2
    die "$1 does not listen"
}

# start_dpfs POLLING CORES BACKEND SOCKET: DPFS with this backend, the keys of its table, and without caches.
start_dpfs() {
    cat >"$tmp/dpfs.toml" <<END
[runtime]
polling = "$1"
cores = [$2]
dir = "$tmp"
[[device]]
tag = "bench"
hal = { kind = "vhost-user", socket = "$4", queues = 1, depth = 256 }
backend = { $3, cache = "none" }
END
    start_server dpfs "${inside[@]}" "${pin[@]}" "$dpfs" serve -c "$tmp/dpfs.toml"
    wait_for_socket dpfs "$4"
}

# start_virtiofsd MACHINE DIRECTORY SOCKET: Debian's virtiofsd without caches, for a guest of UML or QEMU.
start_virtiofsd() {
    local socket=$3
    [[ $1 != uml ]] || socket=$3.back
    start_server virtiofsd "${pin[@]}" "$rig/virtiofsd" "$socket" bench "$2" --cache=never
    wait_for_socket virtiofsd "$socket"
    [[ $1 == uml ]] || return 0
    start_server proxy "$rig/vhost-user-proxy" "$3" "$socket"
    wait_for_socket proxy "$3"
}

# start_ganesha DIRECTORY PORT [ADDRESS]: an NFS 4.1 server on that address, or on the loopback interface, that exports the
# directory as /bench. Only root may: it opens files by handle.
start_ganesha() {
    local home=$cache/ganesha address=${3:-127.0.0.1} i
    mkdir -p "$tmp/ganesha"
    # UseGetpwnam: otherwise it wants the id mapper's configuration, though owners are numbers. Graceless: a client need
    # not wait for others to reclaim what they held.
    cat >"$tmp/ganesha.conf" <<END
NFS_CORE_PARAM {
    Protocols = 4;
    NFS_Port = $2;
    Bind_addr = $address;
    Enable_NLM = false;
    Enable_RQUOTA = false;
    Enable_UDP = false;
    mount_path_pseudo = true;
    fsid_device = true;
    Plugins_Dir = $home/lib/x86_64-linux-gnu/ganesha;
}
NFSv4 {
    Graceless = true;
    Minor_Versions = 1;
    RecoveryBackend = fs_ng;
    RecoveryRoot = $tmp/ganesha;
    Only_Numeric_Owners = true;
    UseGetpwnam = true;
}
NFS_KRB5 {
    Active_krb5 = false;
}
EXPORT {
    Export_Id = 1;
    Path = $1;
    Pseudo = /bench;
    Protocols = 4;
    Transports = TCP;
    Access_Type = RW;
    Squash = No_Root_Squash;
    SecType = none, sys;
    PrivilegedPort = false;
    FSAL {
        Name = VFS;
    }
}
END
    start_server ganesha "${inside[@]}" "${pin[@]}" env LD_LIBRARY_PATH="$home/lib/ganesha:$home/lib/x86_64-linux-gnu" \
        "$home/ganesha.nfsd" -F -f "$tmp/ganesha.conf" -p "$tmp/ganesha/pid" -L STDOUT -N NIV_EVENT
    for ((i = 0; i < 500; i++)); do
        ! "${inside[@]}" bash -c ": </dev/tcp/$address/$2" 2>/dev/null || return 0
        kill -0 "${servers[-1]}" 2>/dev/null || break
        sleep 0.02
    done
    tail -n 20 "$tmp/ganesha.log" >&2
    die "ganesha does not listen"
}

# Ends what start_* started: asked first, so that DPFS takes its sockets away, and then killed.
end_server() {
    local server i
    for server in "${servers[@]}"; do
        kill -TERM -- "-$server" 2>/dev/null || true
    done
    for server in "${servers[@]}"; do
        for ((i = 0; i < 100; i++)); do
            kill -0 -- "-$server" 2>/dev/null || break
            sleep 0.02
        done
        kill -KILL -- "-$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    done
    servers=()
    rm -f "$tmp"/*.sock "$tmp"/*.sock.back
}
