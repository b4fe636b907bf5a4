# shellcheck shell=bash
# Starts the servers that benches compare, one at a time, and ends them by their process ids. Sourced after lib.sh by
# scripts that set:
#   rig      this folder
#   tmp      a folder for sockets and logs
#   dpfs     the daemon
#   pin      a command that the server runs under (taskset...), or nothing
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

# start_dpfs POLLING CORES DIRECTORY SOCKET: DPFS with the local backend and without caches.
start_dpfs() {
    cat >"$tmp/dpfs.toml" <<END
[runtime]
polling = "$1"
cores = [$2]
dir = "$tmp"
[[device]]
tag = "bench"
hal = { kind = "vhost-user", socket = "$4", queues = 1, depth = 256 }
backend = { kind = "local", path = "$3", cache = "none" }
END
    start_server dpfs "${pin[@]}" "$dpfs" serve -c "$tmp/dpfs.toml"
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
