/*
 * An emulated libsnap: devices and functions.
 *
 * Not NVIDIA's header. Names, arguments and meanings are the interface of libsnap as it is publicly known; layouts are
 * our own, have only the fields that DPFS uses, and fit nothing but the library beside. A program is compiled against
 * one libsnap or the other, never mixed.
 */
#ifndef EMULATED_SNAP_H
#define EMULATED_SNAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <infiniband/verbs.h>

/* By this the build knows that it has no device behind. */
#define SNAP_EMULATION 1

enum snap_emulation_type {
	SNAP_VIRTIO_FS = 1 << 3,
};

enum snap_pci_type {
	SNAP_NONE_PF = 0,
	SNAP_VIRTIO_FS_PF = 1 << 6,
	SNAP_VIRTIO_FS_VF = 1 << 7,
};

struct snap_context;

struct snap_pci_attr {
	uint16_t device_id;
	uint16_t vendor_id;
	uint8_t revision_id;
	uint32_t class_code;
	uint16_t subsystem_id;
	uint16_t subsystem_vendor_id;
	uint16_t num_msix;
	uint16_t num_of_vfs;
};

struct snap_pci {
	struct snap_context *sctx;
	enum snap_pci_type type;
	bool plugged;
	int id;
	char pci_number[16];
	int num_vfs;
	bool hotplugged;
};

struct snap_pfs_ctx {
	enum snap_emulation_type type;
	int max_pfs;
	struct snap_pci *pfs;
};

struct snap_virtio_caps {
	uint32_t max_emulated_virtqs;
	uint16_t max_tunnel_desc;
};

struct snap_hotplug_context {
	int supported_types;
	uint8_t max_devices;
	uint16_t max_total_vfs;
};

struct snap_context {
	struct ibv_context *context;
	int emulation_caps;
	struct snap_pfs_ctx virtio_fs_pfs;
	struct snap_virtio_caps virtio_fs_caps;
	bool hotplug_supported;
	struct snap_hotplug_context hotplug;
};

#define SNAP_VIRTIO_FS_DEV_CFG_TAG_LEN 36

struct snap_virtio_fs_registers {
	uint64_t device_features;
	uint16_t queue_size;
	uint8_t tag[SNAP_VIRTIO_FS_DEV_CFG_TAG_LEN];
	uint16_t num_request_queues;
};

union snap_device_registers {
	struct snap_virtio_fs_registers virtio_fs;
};

struct snap_hotplug_attr {
	enum snap_emulation_type type;
	struct snap_pci_attr pci_attr;
	bool use_default_regs;
	union snap_device_registers regs;
	uint16_t max_vfs;
};

struct snap_context *snap_open(struct ibv_device *device);
void snap_close(struct snap_context *sctx);
struct snap_pci *snap_hotplug_pf(struct snap_context *sctx, struct snap_hotplug_attr *attr);
int snap_hotunplug_pf(struct snap_pci *pf);
int snap_rescan_vfs(struct snap_pci *pf, size_t num_vfs);

#endif
