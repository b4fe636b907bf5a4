/* An emulated libsnap: the controller of one virtio-fs function. See snap.h. */
#ifndef EMULATED_SNAP_VIRTIO_FS_CTRL_H
#define EMULATED_SNAP_VIRTIO_FS_CTRL_H

#include "snap_fs_ops.h"
#include "snap_virtio_common_ctrl.h"

struct snap_virtio_fs_ctrl_attr {
	struct snap_virtio_ctrl_attr common;
	struct snap_virtio_fs_registers regs;
};

struct snap_virtio_fs_ctrl {
	struct snap_virtio_ctrl common;
};

struct snap_virtio_fs_ctrl *snap_virtio_fs_ctrl_open(struct snap_context *sctx,
						     struct snap_virtio_fs_ctrl_attr *attr,
						     struct snap_fs_dev_ops *fs_dev_ops,
						     void *fs_dev);
void snap_virtio_fs_ctrl_close(struct snap_virtio_fs_ctrl *ctrl);
void snap_virtio_fs_ctrl_progress(struct snap_virtio_fs_ctrl *ctrl);
void snap_virtio_fs_ctrl_io_progress_thread(struct snap_virtio_fs_ctrl *ctrl, uint32_t thread_id);

#endif
