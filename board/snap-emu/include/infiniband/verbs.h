/*
 * The few verbs that DPFS uses, for the emulated libsnap. Not rdma-core: written from its documentation, with layouts of
 * our own that fit nothing but the library beside.
 */
#ifndef EMULATED_VERBS_H
#define EMULATED_VERBS_H

struct ibv_device {
	char name[64];
};

struct ibv_context {
	struct ibv_device *device;
};

struct ibv_pd {
	struct ibv_context *context;
};

struct ibv_device **ibv_get_device_list(int *num_devices);
void ibv_free_device_list(struct ibv_device **list);
const char *ibv_get_device_name(struct ibv_device *device);
struct ibv_pd *ibv_alloc_pd(struct ibv_context *context);
int ibv_dealloc_pd(struct ibv_pd *pd);

#endif
