/*
 * DPFS: the core that answers a host's FUSE requests, as a library.
 *
 * The program brings memory, a transport and a loop; the library brings everything between: session, decoding, limits,
 * replies and the file system. It allocates nothing, starts nothing and waits for nothing.
 *
 *     transport --poll()--> request --> dpfs_worker_round() --> file system
 *     transport <-complete(), flush()------'
 *
 * Memory handed to the library need not be zero. It belongs to the library until the program stops calling it for that
 * object; then the program may simply free it, nothing is left behind.
 *
 * A device may be used by several threads at once. A worker and its queues belong to one thread at a time; a device has
 * as many workers as there are threads that serve it.
 *
 * Functions return zero or more, or a negative error number (errno.h); the reason of -EINVAL stands on standard error,
 * with what was found and what is allowed. A defect in the library ends the process (abort(3)) with a line that says where;
 * nothing is ever unwound into the program.
 *
 * Link with -ldpfs, which needs the libc and nothing else.
 */
#ifndef DPFS_H
#define DPFS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this header: major * 65536 + minor * 256 + patch. */
#define DPFS_VERSION 0x000100u
/* The library's own; a program that minds compares. */
uint32_t dpfs_version(void);

/* The host's architecture: its open flags differ. */
enum { DPFS_HOST_X86_64 = 0, DPFS_HOST_AARCH64 = 1 };

/* What one host mounts. All zero, but for `size`, is valid and means the defaults. */
struct dpfs_config {
    uint32_t size;           /* sizeof(struct dpfs_config) */
    uint32_t host;           /* DPFS_HOST_* [DPFS_HOST_X86_64] */
    uint32_t max_write;      /* largest READ or WRITE in bytes: a multiple of 4096 up to 1 MiB [1 MiB] */
    uint32_t max_background; /* background requests that the host has in flight, up to 65535 [512] */
    uint64_t iops;           /* requests per second [no limit] */
    uint64_t bandwidth;      /* bytes of data per second [no limit] */
    uint64_t file_size;      /* of every file of the file system "null", in bytes [1 GiB] */
};

/*
 * A device with the file system "null": every name exists, reads give zeros, writes are accepted and forgotten. It
 * proves a transport and measures its cost. Needs dpfs_device_memory() bytes.
 *
 * -EINVAL for a null pointer or a value that is not allowed, -ENOMEM for too little memory.
 */
struct dpfs_device;
size_t dpfs_device_memory(void);
int dpfs_device_new(const struct dpfs_config *config, void *memory, size_t bytes, struct dpfs_device **device);

/* The host reset the device or is gone: its session ends, whatever requests are still pending. -EINVAL for null. */
int dpfs_device_reset(struct dpfs_device *device);

/* Most segments of one request, readable and writable ones together. */
#define DPFS_SEGMENTS 272

/*
 * One request as the transport hands it up: first the segments that the host wrote (struct fuse_in_header and what
 * follows it), then those it wants filled. None may be longer than 4 GiB; empty ones are skipped.
 */
struct dpfs_request {
    uint64_t token;         /* the transport's own name for it, given back by complete() */
    struct iovec *segments; /* set by the library: room for DPFS_SEGMENTS */
    uint16_t readable;      /* number of segments that the host wrote */
    uint16_t writable;      /* number of segments to fill, behind them */
};

/*
 * A transport's queue: functions that the library calls on the thread of its worker, from dpfs_worker_round() only. Of the
 * worker's functions they may call dpfs_worker_counts() and no other.
 *
 * poll     takes the next request and returns 1, or returns 0 when there is none. The segments stay mapped and readable,
 *          those to fill writable, until complete(); the host may change their bytes meanwhile. A request whose numbers
 *          break the rules is completed at once with zero bytes.
 * complete gives a request back with the number of bytes written into its segments, the answer's header included; zero
 *          for one without an answer. A transport that sends all writable bytes to the host zeroes the others first.
 * flush    publishes what was completed since the last call and notifies the host. Called in every round; may be null.
 */
struct dpfs_queue {
    void *context;
    int (*poll)(void *context, struct dpfs_request *request);
    void (*complete)(void *context, uint64_t token, uint32_t written);
    void (*flush)(void *context);
};

/*
 * Serves queues of a device on one thread. `queues` are 1 to the board's limit, `depth` the requests in flight on each,
 * 1 to the board's limit; the library copies what `queues` points to. Needs dpfs_worker_memory(queues, depth) bytes,
 * which is zero for numbers that are not allowed.
 *
 * -EINVAL for a null pointer or a number that is not allowed, -ENOMEM for too little memory.
 */
struct dpfs_worker;
size_t dpfs_worker_memory(uint32_t queues, uint32_t depth);
int dpfs_worker_new(struct dpfs_device *device, const struct dpfs_queue *queues, uint32_t count, uint32_t depth,
                    void *memory, size_t bytes, struct dpfs_worker **worker);

/*
 * Does all that can be done now: takes requests, answers, completes. `now` is a monotonic clock in nanoseconds. Returns
 * 1 when anything was done, 0 when not; then the thread may wait for its transport until dpfs_worker_deadline().
 */
int dpfs_worker_round(struct dpfs_worker *worker, uint64_t now);

/* When the next round is due at the latest, in the same clock; UINT64_MAX when nothing but a request is waited for. */
uint64_t dpfs_worker_deadline(const struct dpfs_worker *worker);

/* Requests that were taken and not yet completed. */
uint32_t dpfs_worker_in_flight(const struct dpfs_worker *worker);

/* Ends what waits, so that dpfs_worker_in_flight() falls to zero in the rounds that follow. -EINVAL for null. */
int dpfs_worker_shutdown(struct dpfs_worker *worker);

/* What a worker did since it was made. May be asked from any thread. */
struct dpfs_counts {
    uint64_t requests;  /* completed */
    uint64_t errors;    /* of these, answered with an error number */
    uint64_t refused;   /* of the transport, with numbers that break the rules */
};
int dpfs_worker_counts(const struct dpfs_worker *worker, struct dpfs_counts *counts);

#ifdef __cplusplus
}
#endif
#endif
