/* An emulated libsnap: what all controllers have in common. See snap.h. */
#ifndef EMULATED_SNAP_VIRTIO_COMMON_CTRL_H
#define EMULATED_SNAP_VIRTIO_COMMON_CTRL_H

#include "snap.h"

enum snap_virtio_ctrl_type {
	SNAP_VIRTIO_BLK_CTRL,
	SNAP_VIRTIO_NET_CTRL,
	SNAP_VIRTIO_FS_CTRL,
};

struct snap_virtio_ctrl_bar_cbs {
	int (*validate)(void *cb_ctx);
	int (*start)(void *cb_ctx);
	int (*stop)(void *cb_ctx);
	int (*num_vfs_changed)(void *cb_ctx, uint16_t new_numvfs);
	int (*pre_flr)(void *cb_ctx);
	int (*post_flr)(void *cb_ctx);
};

struct snap_virtio_ctrl_attr {
	struct ibv_context *context;
	enum snap_virtio_ctrl_type type;
	enum snap_pci_type pci_type;
	int pf_id;
	int vf_id;
	bool event;
	void *cb_ctx;
	struct snap_virtio_ctrl_bar_cbs *bar_cbs;
	struct ibv_pd *pd;
	uint32_t npgs;
	bool force_in_order;
	bool suspended;
	bool recover;
	bool force_recover;
};

struct snap_virtio_ctrl {
	enum snap_virtio_ctrl_type type;
	size_t max_queues;
};

bool snap_virtio_ctrl_is_stopped(struct snap_virtio_ctrl *ctrl);
bool snap_virtio_ctrl_is_suspended(struct snap_virtio_ctrl *ctrl);
int snap_virtio_ctrl_suspend(struct snap_virtio_ctrl *ctrl);
int snap_virtio_ctrl_resume(struct snap_virtio_ctrl *ctrl);

#endif
