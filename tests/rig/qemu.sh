# shellcheck shell=bash
# How to start QEMU. Sourced by boot.

qemu_command() {
    local i accel
    accel=$(qemu_accelerator)
    # Of a server that offers the configuration space, which UML needs and QEMU does not.
    noise='but QEMU does not\.$'
    command=("$cache/qemu/qemu-system-x86_64" -L "$cache/qemu/usr/share/qemu" -L "$cache/qemu/usr/share/seabios"
        -accel "$accel" -cpu Nehalem -smp "$cpus" -m "${mem}M"
        -object "memory-backend-memfd,id=mem,size=${mem}M,share=on" -numa "node,memdev=mem"
        -display none -no-reboot -nodefaults
        -chardev "stdio,id=console,signal=off" -serial chardev:console # ^C is for the guest
        -kernel "$cache/$kernel/kernel" -initrd "$tmp/initramfs"
        -append "console=ttyS0 mitigations=off nokaslr ${append[*]}"
        "${qemu_arguments[@]}")
    for i in "${!sockets[@]}"; do
        command+=(-chardev "socket,id=c$i,path=${sockets[i]}"
            -device "vhost-user-fs-pci,chardev=c$i,tag=${tags[i]},queue-size=1024,num-request-queues=$queues")
    done
}

# Prints what runs the guest's code. A /dev/kvm that opens may still not run a guest (in a virtual machine without
# nested virtualisation it hangs or dies): only a boot tells, once for each kernel and processor.
qemu_accelerator() {
    local answer
    if [[ -n ${DPFS_ACCEL:-} ]]; then
        echo "$DPFS_ACCEL"
        return
    fi
    if [[ -r /dev/kvm && -w /dev/kvm ]]; then
        answer=$cache/kvm/$(uname -r)-$(grep -m 1 -E '^flags' /proc/cpuinfo | cksum | cut -d ' ' -f 1)
        [[ -s $answer ]] || with_lock kvm qemu_probe "$answer" >&2
        [[ $(cat "$answer") != works ]] || { echo kvm && return; }
    fi
    echo tcg,thread=multi
}

qemu_probe() {
    local answer=$1 result=fails
    [[ ! -s $answer ]] || return 0
    mkdir -p "${answer%/*}"
    say "trying KVM with a short boot"
    ! DPFS_ACCEL=kvm "$rig/boot" --qemu "$version" --job probe --timeout 20 </dev/null >"$answer.log" 2>&1 || result=works
    say "KVM $result here"
    echo "$result" >"$answer"
}
