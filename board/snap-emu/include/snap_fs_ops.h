/* An emulated libsnap: what a file system is to it. See snap.h. */
#ifndef EMULATED_SNAP_FS_OPS_H
#define EMULATED_SNAP_FS_OPS_H

#include <stddef.h>
#include <sys/uio.h>

enum snap_fs_dev_op_status {
	SNAP_FS_DEV_OP_SUCCESS,
	SNAP_FS_DEV_OP_IO_ERROR,
};

typedef void (*snap_fs_dev_io_done_cb_t)(enum snap_fs_dev_op_status status, void *done_arg);

struct snap_fs_dev_io_done_ctx {
	snap_fs_dev_io_done_cb_t cb;
	void *user_arg;
};

struct snap_fs_dev_ops {
	int (*handle_req)(void *ctx, struct iovec *fuse_in_iov, int in_iovcnt,
			  struct iovec *fuse_out_iov, int out_iovcnt,
			  struct snap_fs_dev_io_done_ctx *done_ctx);
	void *(*dma_malloc)(size_t size);
	void (*dma_free)(void *buf);
};

#endif
