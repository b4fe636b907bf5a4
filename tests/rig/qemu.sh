# shellcheck shell=bash
# How to start QEMU. Sourced by boot.

qemu_command() {
    local i accel
    accel=$(qemu_accelerator)
    command=("$cache/qemu/qemu-system-x86_64" -L "$cache/qemu/usr/share/qemu" -L "$cache/qemu/usr/share/seabios"
        -accel "$accel" -cpu max -smp "$cpus" -m "${mem}M"
        -object "memory-backend-memfd,id=mem,size=${mem}M,share=on" -numa "node,memdev=mem"
        -display none -no-reboot -nodefaults -serial stdio
        -kernel "$cache/$kernel/kernel" -initrd "$tmp/initramfs"
        -append "console=ttyS0 mitigations=off nokaslr ${append[*]}")
    for i in "${!sockets[@]}"; do
        command+=(-chardev "socket,id=c$i,path=${sockets[i]}"
            -device "vhost-user-fs-pci,chardev=c$i,tag=${tags[i]},queue-size=1024,num-request-queues=$queues")
    done
}

qemu_accelerator() { echo tcg,thread=multi; }
