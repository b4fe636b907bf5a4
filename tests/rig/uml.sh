# shellcheck shell=bash
# How to start User-Mode Linux. Sourced by boot.

uml_command() {
    local socket
    ((cpus == 1 && queues == 1)) || die "UML has one CPU and uses one request queue"
    # Said at every start, and of no use here.
    noise='^(mmapper_init - find_iomem|Failed to initialize ubd device 0|SELinux:)'
    # con0 on our standard streams and no other console; uml_dir is where it would leave a control socket in $HOME.
    command=("$cache/$kernel/kernel" seccomp=auto "mem=${mem}M" "initrd=$tmp/initramfs" con=null "con0=fd:0,fd:1" "uml_dir=$tmp/"
        "${append[@]}" "${uml_arguments[@]}")
    for socket in "${sockets[@]}"; do
        command+=("virtio_uml.device=$(realpath "$socket"):26") # 26 is virtio-fs
    done
}
