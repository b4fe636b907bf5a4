// libnfs at its best, as a peer for the nfs backend: its asynchronous interface, so many requests under way on one
// connection, each answered one followed by the next.
//
//   libnfs URL FILE read|write random|sequential SIZE_OF_REQUEST SIZE_OF_FILE DEPTH SECONDS
//
// The URL names server and export as libnfs does, with its port and version. Prints the latency of each request in
// microseconds, a line each, and then one line with the processor time that they took: "cpu USER SYSTEM", in seconds.
#include <fcntl.h>
#include <sys/time.h>
#include <nfsc/libnfs.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static struct nfs_context *nfs;
static struct nfsfh *file;
static char *bytes;
static uint64_t size, pages, state = 88172645463325252ULL, next;
static int writes, ordered;
static double start, seconds;
static long under_way, done, room;
static float *latencies;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static void fail(const char *what) {
    fprintf(stderr, "libnfs: %s: %s\n", what, nfs_get_error(nfs));
    exit(1);
}

static uint64_t place(void) {
    if (ordered) return next++ % pages * size;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % pages * size;
}

static void answered(int result, struct nfs_context *context, void *data, void *begun);

static void begin(double *begun) {
    *begun = now();
    int failed = writes ? nfs_pwrite_async(nfs, file, place(), size, bytes, answered, begun)
                        : nfs_pread_async(nfs, file, place(), size, answered, begun);
    if (failed) fail("a request");
    under_way++;
}

static void answered(int result, struct nfs_context *context, void *data, void *begun) {
    (void)context;
    if (result != (int)size) fail("an answer");
    if (!writes) bytes[0] ^= ((char *)data)[size - 1];
    if (done == room) latencies = realloc(latencies, (room = 2 * room + 1024) * sizeof *latencies);
    if (!latencies) exit(1);
    latencies[done++] = (now() - *(double *)begun) * 1e6;
    under_way--;
    if (now() - start < seconds) begin(begun);
}

int main(int count, char **arguments) {
    if (count != 9) return 2;
    writes = !strcmp(arguments[3], "write");
    ordered = !strcmp(arguments[4], "sequential");
    size = strtoull(arguments[5], NULL, 10);
    pages = strtoull(arguments[6], NULL, 10) / size;
    long depth = atol(arguments[7]);
    seconds = atof(arguments[8]);
    bytes = calloc(1, size);
    double *begun = calloc(depth, sizeof *begun);
    nfs = nfs_init_context();
    struct nfs_url *url = nfs_parse_url_dir(nfs, arguments[1]);
    if (!bytes || !begun || !url || nfs_mount(nfs, url->server, url->path)) fail("mounting");
    if (nfs_open(nfs, arguments[2], O_RDWR, &file)) fail("opening");

    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    start = now();
    for (long at = 0; at < depth; at++) begin(&begun[at]);
    while (under_way > 0) {
        struct pollfd socket = {.fd = nfs_get_fd(nfs), .events = nfs_which_events(nfs)};
        if (poll(&socket, 1, 1000) < 0 || nfs_service(nfs, socket.revents) < 0) fail("the connection");
    }
    getrusage(RUSAGE_SELF, &after);
    for (long at = 0; at < done; at++) printf("%.1f\n", latencies[at]);
#define SECONDS(of) (after.of.tv_sec - before.of.tv_sec + (after.of.tv_usec - before.of.tv_usec) * 1e-6)
    printf("cpu %.6f %.6f\n", SECONDS(ru_utime), SECONDS(ru_stime));
    return 0;
}
