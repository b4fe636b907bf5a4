/*
 * The only code that knows libsnap: its headers, its structures, its manners. See snap_shim.h.
 *
 * libsnap has no version to ask for, so what is relied on is checked here by the compiler: a libsnap with another
 * interface does not compile, and the message names the difference.
 */
#include "snap_shim.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <infiniband/verbs.h>

#include "snap.h"
#include "snap_virtio_fs_ctrl.h"

/* virtio 1.3, 6 "Reserved Feature Bits": VIRTIO_F_VERSION_1 */
#define FEATURES (1ULL << 32)

#define SAME(expression, type) \
	_Static_assert(__builtin_types_compatible_p(__typeof__(expression), type), \
		       "this libsnap has another " #expression)

SAME(&snap_open, struct snap_context *(*)(struct ibv_device *));
SAME(&snap_close, void (*)(struct snap_context *));
SAME(&snap_hotplug_pf, struct snap_pci *(*)(struct snap_context *, struct snap_hotplug_attr *));
SAME(&snap_hotunplug_pf, int (*)(struct snap_pci *));
SAME(&snap_rescan_vfs, int (*)(struct snap_pci *, size_t));
SAME(&snap_virtio_fs_ctrl_open,
     struct snap_virtio_fs_ctrl *(*)(struct snap_context *, struct snap_virtio_fs_ctrl_attr *,
				     struct snap_fs_dev_ops *, void *));
SAME(&snap_virtio_fs_ctrl_close, void (*)(struct snap_virtio_fs_ctrl *));
SAME(&snap_virtio_ctrl_suspend, int (*)(struct snap_virtio_ctrl *));
SAME(&snap_virtio_ctrl_is_suspended, bool (*)(struct snap_virtio_ctrl *));
SAME(&snap_virtio_ctrl_is_stopped, bool (*)(struct snap_virtio_ctrl *));
/* Both progress functions return nothing in some releases and a count in others: their results are not looked at. */
SAME(((struct snap_fs_dev_ops *)0)->handle_req,
     int (*)(void *, struct iovec *, int, struct iovec *, int, struct snap_fs_dev_io_done_ctx *));
SAME(((struct snap_fs_dev_io_done_ctx *)0)->cb, void (*)(enum snap_fs_dev_op_status, void *));
_Static_assert(sizeof(((struct snap_virtio_fs_registers *)0)->tag) == DPFS_SNAP_TAG,
	       "this libsnap has another length of tags");

struct dpfs_snap_manager {
	struct snap_context *context;
	struct ibv_pd *pd;
};

struct dpfs_snap_function {
	struct snap_virtio_fs_ctrl *controller;
	struct dpfs_snap_calls calls;
	void *context;
	struct snap_virtio_ctrl_bar_cbs bar_calls;
	struct snap_fs_dev_ops ops;
};

bool dpfs_snap_completes_later(void)
{
#ifdef DPFS_SNAP_ASYNC
	return true;
#else
	return false;
#endif
}

bool dpfs_snap_is_emulated(void)
{
#ifdef SNAP_EMULATION
	return true;
#else
	return false;
#endif
}

/* Some of libsnap's functions give an errno, some a negative one, some neither. */
static int positive(int error)
{
	if (error == 0)
		return EIO;
	return error < 0 ? -error : error;
}

int dpfs_snap_manager_name(size_t index, char name[DPFS_SNAP_NAME])
{
	int count = 0;
	struct ibv_device **devices = ibv_get_device_list(&count);
	bool found = devices && index < (size_t)count;

	if (found) {
		memset(name, 0, DPFS_SNAP_NAME);
		strncpy(name, ibv_get_device_name(devices[index]), DPFS_SNAP_NAME - 1);
	}
	if (devices)
		ibv_free_device_list(devices);
	return found ? 0 : ENOENT;
}

int dpfs_snap_manager_open(const char *name, struct dpfs_snap_manager **manager)
{
	int count = 0, error = ENODEV;
	struct ibv_device **devices = ibv_get_device_list(&count);
	struct dpfs_snap_manager *opened = calloc(1, sizeof(*opened));

	if (!devices || !opened) {
		error = devices ? ENOMEM : ENODEV;
		goto out;
	}
	for (int i = 0; i < count; i++) {
		if (strcmp(ibv_get_device_name(devices[i]), name))
			continue;
		error = EIO;
		opened->context = snap_open(devices[i]);
		if (!opened->context)
			break;
		opened->pd = ibv_alloc_pd(opened->context->context);
		if (opened->pd)
			error = 0;
		else
			snap_close(opened->context);
		break;
	}
out:
	if (devices)
		ibv_free_device_list(devices);
	if (error)
		free(opened);
	else
		*manager = opened;
	return error;
}

void dpfs_snap_manager_close(struct dpfs_snap_manager *manager)
{
	ibv_dealloc_pd(manager->pd);
	snap_close(manager->context);
	free(manager);
}

void dpfs_snap_manager_limits(const struct dpfs_snap_manager *manager, struct dpfs_snap_limits *limits)
{
	const struct snap_context *context = manager->context;
	bool virtio_fs = context->emulation_caps & SNAP_VIRTIO_FS;

	*limits = (struct dpfs_snap_limits){
		.virtio_fs = virtio_fs,
		.hotplug = context->hotplug_supported &&
			   (context->hotplug.supported_types & SNAP_VIRTIO_FS),
		.pfs = virtio_fs ? (uint32_t)context->virtio_fs_pfs.max_pfs : 0,
		.virtqueues = virtio_fs ? context->virtio_fs_caps.max_emulated_virtqs : 0,
	};
}

static struct snap_pci *find_pf(const struct dpfs_snap_manager *manager, uint32_t pf)
{
	const struct snap_context *context = manager->context;

	if (!(context->emulation_caps & SNAP_VIRTIO_FS) ||
	    pf >= (uint32_t)context->virtio_fs_pfs.max_pfs)
		return NULL;
	return &context->virtio_fs_pfs.pfs[pf];
}

int dpfs_snap_manager_pf(const struct dpfs_snap_manager *manager, uint32_t pf, struct dpfs_snap_pf *found)
{
	const struct snap_pci *pci = find_pf(manager, pf);

	if (!pci)
		return ENODEV;
	*found = (struct dpfs_snap_pf){
		.plugged = pci->plugged,
		.vfs = pci->num_vfs > 0 ? (uint32_t)pci->num_vfs : 0,
	};
	strncpy(found->pci, pci->pci_number, sizeof(found->pci) - 1);
	return 0;
}

int dpfs_snap_rescan_vfs(struct dpfs_snap_manager *manager, uint32_t pf, uint16_t vfs)
{
	struct snap_pci *pci = find_pf(manager, pf);

	if (!pci)
		return ENODEV;
	return snap_rescan_vfs(pci, vfs) ? EIO : 0;
}

static void set_registers(struct snap_virtio_fs_registers *registers, const struct dpfs_snap_config *config)
{
	registers->device_features = FEATURES;
	registers->queue_size = config->depth;
	registers->num_request_queues = config->request_queues;
	memcpy(registers->tag, config->tag, sizeof(registers->tag));
}

int dpfs_snap_hotplug(struct dpfs_snap_manager *manager, const struct dpfs_snap_config *config)
{
	struct snap_hotplug_attr attr = {
		.type = SNAP_VIRTIO_FS,
		.pci_attr = {
			/* virtio 1.3, 4.1.2: vendor, and 0x1040 + 26 for a file system; class: mass storage, other */
			.vendor_id = 0x1af4,
			.device_id = 0x105a,
			.class_code = 0x018000,
			.subsystem_vendor_id = 0x15b3,
			.subsystem_id = 0x105a,
			.num_msix = config->request_queues + 2,
		},
	};
	struct snap_pci *pci;

	set_registers(&attr.regs.virtio_fs, config);
	pci = snap_hotplug_pf(manager->context, &attr);
	if (!pci)
		return positive(errno);
	if (pci->id != (int)config->pf) {
		snap_hotunplug_pf(pci);
		return EBUSY;
	}
	return 0;
}

int dpfs_snap_hotunplug(struct dpfs_snap_manager *manager, uint32_t pf)
{
	struct snap_pci *pci = find_pf(manager, pf);

	if (!pci)
		return ENODEV;
	return snap_hotunplug_pf(pci) ? EIO : 0;
}

static int handle_request(void *context, struct iovec *readable, int readable_count,
			  struct iovec *writable, int writable_count,
			  struct snap_fs_dev_io_done_ctx *done)
{
	struct dpfs_snap_function *function = context;
	bool ok = function->calls.request(function->context, readable, (size_t)readable_count,
					  writable, (size_t)writable_count,
					  (struct dpfs_snap_done *)done);

#ifdef DPFS_SNAP_ASYNC
	return ok ? EWOULDBLOCK : EIO;
#else
	return ok ? 0 : EIO;
#endif
}

void dpfs_snap_complete(struct dpfs_snap_done *done, bool ok)
{
	struct snap_fs_dev_io_done_ctx *context = (struct snap_fs_dev_io_done_ctx *)done;

	context->cb(ok ? SNAP_FS_DEV_OP_SUCCESS : SNAP_FS_DEV_OP_IO_ERROR, context->user_arg);
}

/* RDMA reads and writes these buffers. What they hold from earlier is overwritten before it is sent (src/hal/snap). */
static void *allocate(size_t size)
{
	return aligned_alloc(4096, (size + 4095) & ~(size_t)4095);
}

/* The host's driver is gone or going: by a reset, an FLR, or because the controller is closed. */
static int stopped(void *context)
{
	struct dpfs_snap_function *function = context;

	function->calls.reset(function->context);
	return 0;
}

static int vfs_changed(void *context, uint16_t vfs)
{
	struct dpfs_snap_function *function = context;

	return function->calls.vfs_changed(function->context, vfs) ? 0 : -EBUSY;
}

int dpfs_snap_open(struct dpfs_snap_manager *manager, const struct dpfs_snap_config *config,
		   const struct dpfs_snap_calls *calls, void *context,
		   struct dpfs_snap_function **function)
{
	struct snap_virtio_fs_ctrl_attr attr = { 0 };
	struct dpfs_snap_function *opened = calloc(1, sizeof(*opened));

	if (!opened)
		return ENOMEM;
	opened->calls = *calls;
	opened->context = context;
	opened->bar_calls.stop = stopped;
	if (config->vf < 0)
		opened->bar_calls.num_vfs_changed = vfs_changed;
	opened->ops.handle_req = handle_request;
	opened->ops.dma_malloc = allocate;
	opened->ops.dma_free = free;

	attr.common.context = manager->context->context;
	attr.common.type = SNAP_VIRTIO_FS_CTRL;
	attr.common.pci_type = config->vf < 0 ? SNAP_VIRTIO_FS_PF : SNAP_VIRTIO_FS_VF;
	attr.common.pf_id = (int)config->pf;
	attr.common.vf_id = config->vf;
	attr.common.cb_ctx = opened;
	attr.common.bar_cbs = &opened->bar_calls;
	attr.common.pd = manager->pd;
	attr.common.npgs = config->poll_groups;
	/* libsnap asks the device whether there is something to recover; a fresh one starts as usual. */
	attr.common.recover = true;
	set_registers(&attr.regs, config);

	errno = 0;
	opened->controller = snap_virtio_fs_ctrl_open(manager->context, &attr, &opened->ops, opened);
	if (!opened->controller) {
		int error = positive(errno);

		free(opened);
		return error;
	}
	*function = opened;
	return 0;
}

void dpfs_snap_close(struct dpfs_snap_function *function)
{
	snap_virtio_fs_ctrl_close(function->controller);
	free(function);
}

void dpfs_snap_progress(struct dpfs_snap_function *function)
{
	snap_virtio_fs_ctrl_progress(function->controller);
}

void dpfs_snap_poll(struct dpfs_snap_function *function, uint32_t group)
{
	snap_virtio_fs_ctrl_io_progress_thread(function->controller, group);
}

void dpfs_snap_suspend(struct dpfs_snap_function *function)
{
	/* Fails for a controller that is stopped or suspended: then there is nothing to suspend. */
	(void)snap_virtio_ctrl_suspend(&function->controller->common);
}

bool dpfs_snap_is_quiet(struct dpfs_snap_function *function)
{
	struct snap_virtio_ctrl *common = &function->controller->common;

	return snap_virtio_ctrl_is_suspended(common) || snap_virtio_ctrl_is_stopped(common);
}
