#!/bin/bash
# Stands in for NVIDIA's installer: the same order of steps, none that needs a DPU.
distro=Debian
BDIR=$(dirname "$0")
# As from the host.
echo "bfb_modify_os() { echo 'from bf.cfg' >/mnt/etc/operator; }" >/etc/bf.cfg
# shellcheck source=/dev/null
. "$BDIR/install.env/common"
global_installation_flow
log "INFO: $distro: Rebooting..."
