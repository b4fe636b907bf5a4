/*
 * What DPFS asks of libsnap, in words of our own.
 *
 * Rust binds to this header only (`src/hal/snap`); `snap_shim.c` is the one file that includes libsnap's headers, and is
 * compiled against those of the libsnap that is installed. No layout of libsnap's leaves it.
 *
 * Functions that return an int give 0 or an errno.
 */
#ifndef DPFS_SNAP_SHIM_H
#define DPFS_SNAP_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* An open emulation manager. */
struct dpfs_snap_manager;
/* An open function: one PF or VF, as the host sees it a virtio-fs device. */
struct dpfs_snap_function;
/* The end of one request. */
struct dpfs_snap_done;

#define DPFS_SNAP_NAME 64
#define DPFS_SNAP_PCI 16
#define DPFS_SNAP_TAG 36

struct dpfs_snap_limits {
	/* The firmware emulates virtio-fs at all. */
	bool virtio_fs;
	/* Physical functions can be plugged in. */
	bool hotplug;
	/* Physical functions, plugged or not. */
	uint32_t pfs;
	/* Virtqueues of a function, the one for FORGETs included. */
	uint32_t virtqueues;
};

struct dpfs_snap_pf {
	bool plugged;
	/* VFs that the host switched on. */
	uint32_t vfs;
	/* Address on the host's bus, as a string. */
	char pci[DPFS_SNAP_PCI];
};

/* Called with the context of the function's opening. */
struct dpfs_snap_calls {
	/*
	 * A request, in the thread that polls: descriptors that the host wrote, and those that it wants filled, of which the
	 * whole is sent whatever was filled. All of it stays until the request ends.
	 * With later completion: returns at once, and dpfs_snap_complete ends the request.
	 * Otherwise: returns when the request ended, false for EIO.
	 */
	bool (*request)(void *context, const struct iovec *readable, size_t readable_count,
			const struct iovec *writable, size_t writable_count,
			struct dpfs_snap_done *done);
	/* The host reset the device, in the thread that manages it. */
	void (*reset)(void *context);
	/* The host wants another number of VFs; false: not now. Only called for PFs. */
	bool (*vfs_changed)(void *context, uint16_t vfs);
};

struct dpfs_snap_config {
	uint32_t pf;
	/* -1 for the physical function itself. */
	int32_t vf;
	/* UTF-8, zeros behind. */
	uint8_t tag[DPFS_SNAP_TAG];
	uint16_t request_queues;
	/* Of each queue; a power of two. */
	uint16_t depth;
	/* The same for all functions of a process. */
	uint32_t poll_groups;
};

/* Tell whether this was built for a libsnap that lets requests end later (SNAP_ASYNC). */
bool dpfs_snap_completes_later(void);
/* Tell whether this was built against the emulated libsnap. */
bool dpfs_snap_is_emulated(void);

/* Name the devices that may be emulation managers, one after the other; -ENOENT behind the last. */
int dpfs_snap_manager_name(size_t index, char name[DPFS_SNAP_NAME]);
/* Open an emulation manager: ENODEV when there is none of that name, EIO when libsnap does not open it. */
int dpfs_snap_manager_open(const char *name, struct dpfs_snap_manager **manager);
void dpfs_snap_manager_close(struct dpfs_snap_manager *manager);
void dpfs_snap_manager_limits(const struct dpfs_snap_manager *manager, struct dpfs_snap_limits *limits);
/* Look at a physical function: ENODEV when there is no such. */
int dpfs_snap_manager_pf(const struct dpfs_snap_manager *manager, uint32_t pf, struct dpfs_snap_pf *found);
/* Take the new number of VFs for known, once none of those that go has a controller. */
int dpfs_snap_rescan_vfs(struct dpfs_snap_manager *manager, uint32_t pf, uint16_t vfs);
/* Plug in the function that `config` names: EBUSY when libsnap would plug in another one first. */
int dpfs_snap_hotplug(struct dpfs_snap_manager *manager, const struct dpfs_snap_config *config);
int dpfs_snap_hotunplug(struct dpfs_snap_manager *manager, uint32_t pf);

/* Open the controller of a function. Takes up what the host's driver has going since a daemon that crashed. */
int dpfs_snap_open(struct dpfs_snap_manager *manager, const struct dpfs_snap_config *config,
		   const struct dpfs_snap_calls *calls, void *context,
		   struct dpfs_snap_function **function);
/* Close it. Nobody polls it any more. */
void dpfs_snap_close(struct dpfs_snap_function *function);
/* Look at what the host did to the device. One thread at a time manages a function. */
void dpfs_snap_progress(struct dpfs_snap_function *function);
/* Poll the queues of one group. One thread at a time polls a group. */
void dpfs_snap_poll(struct dpfs_snap_function *function, uint32_t group);
/* Begin to take no more requests. */
void dpfs_snap_suspend(struct dpfs_snap_function *function);
/* Tell whether no request is under way and none will come. */
bool dpfs_snap_is_quiet(struct dpfs_snap_function *function);
/* End a request later. */
void dpfs_snap_complete(struct dpfs_snap_done *done, bool ok);

#endif
