/*
 * A program that embeds the library as a vendor would: a transport of its own (a list of requests), one device, one
 * worker. It plays the host's kernel, too, and checks every byte of the answers. Ends with 0, or says which check failed.
 */
#define _POSIX_C_SOURCE 200809L
#include <dpfs.h>
#include <errno.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

_Static_assert(sizeof(struct dpfs_config) == 40, "as in device.rs");
_Static_assert(sizeof(struct dpfs_request) == 24, "as in queue.rs");
_Static_assert(sizeof(struct dpfs_queue) == 32, "as in queue.rs");
_Static_assert(sizeof(struct dpfs_counts) == 24, "as in worker.rs");

enum { DEPTH = 4, REQUESTS = 16, ROOM = 3 * 4096 };

/* One request of the host: what it wrote, and room for the answer in three pieces, as a driver lays it out. */
struct exchange {
    unsigned char sent[256];
    uint32_t sent_len;
    unsigned char answer[sizeof(struct fuse_out_header)], page[ROOM];
    uint32_t room;
    int broken; /* 1: too many segments; 2: one without an address */
    int completed;
    uint32_t written;
};

struct transport {
    struct exchange all[REQUESTS];
    unsigned taken, count, flushes;
};

static int take(void *context, struct dpfs_request *request) {
    struct transport *transport = context;
    if (transport->taken == transport->count) return 0;
    struct exchange *exchange = &transport->all[transport->taken];
    request->token = 0x1000 + transport->taken++;
    struct iovec *segment = request->segments;
    /* The header's first bytes by themselves: the host may cut as it likes. */
    uint32_t cut = exchange->sent_len < 24 ? exchange->sent_len : 24;
    *segment++ = (struct iovec){exchange->sent, cut};
    *segment++ = (struct iovec){exchange->sent + cut, exchange->sent_len - cut};
    request->readable = 2;
    *segment++ = (struct iovec){exchange->answer, sizeof exchange->answer};
    *segment++ = (struct iovec){exchange->page, exchange->room / 2};
    *segment++ = (struct iovec){exchange->page + exchange->room / 2, exchange->room - exchange->room / 2};
    request->writable = 3;
    if (exchange->broken == 1) request->writable = DPFS_SEGMENTS;
    if (exchange->broken == 2) request->segments[2].iov_base = NULL;
    return 1;
}

static void complete(void *context, uint64_t token, uint32_t written) {
    struct transport *transport = context;
    CHECK(token >= 0x1000 && token - 0x1000 < transport->taken);
    struct exchange *exchange = &transport->all[token - 0x1000];
    CHECK(!exchange->completed);
    exchange->completed = 1;
    exchange->written = written;
}

static void flush(void *context) { ((struct transport *)context)->flushes++; }

static struct exchange *ask(struct transport *transport, uint32_t opcode, uint64_t node, const void *body, size_t len,
                            uint32_t room) {
    struct exchange *exchange = &transport->all[transport->count++];
    struct fuse_in_header header = {.opcode = opcode, .unique = 100 + transport->count, .nodeid = node};
    header.len = sizeof header + len;
    CHECK(header.len <= sizeof exchange->sent && room <= ROOM && transport->count <= REQUESTS);
    memcpy(exchange->sent, &header, sizeof header);
    if (len > 0) memcpy(exchange->sent + sizeof header, body, len);
    exchange->sent_len = header.len;
    exchange->room = room;
    memset(exchange->page, 0xa5, sizeof exchange->page);
    return exchange;
}

/* The answer's header is the one of this request. */
static const void *answered(const struct exchange *exchange, int error, size_t len) {
    struct fuse_in_header in;
    struct fuse_out_header out;
    memcpy(&in, exchange->sent, sizeof in);
    memcpy(&out, exchange->answer, sizeof out);
    CHECK(exchange->completed && exchange->written == sizeof out + len);
    CHECK(out.unique == in.unique && out.error == -error && out.len == exchange->written);
    return exchange->page;
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static struct dpfs_device *device(const struct dpfs_config *config) {
    struct dpfs_device *device = NULL;
    CHECK(dpfs_device_new(config, malloc(dpfs_device_memory()), dpfs_device_memory(), &device) == 0 && device);
    return device;
}

/* An odd address: the library aligns. */
static struct dpfs_worker *worker(struct dpfs_device *device, struct transport *transport) {
    struct dpfs_queue queue = {transport, take, complete, flush};
    struct dpfs_worker *worker = NULL;
    size_t bytes = dpfs_worker_memory(1, DEPTH);
    char *memory = malloc(bytes + 1);
    memset(memory, 0xff, bytes + 1);
    CHECK(dpfs_worker_new(device, &queue, 1, DEPTH, memory + 1, bytes, &worker) == 0 && worker);
    return worker;
}

static void init(struct transport *transport) {
    struct fuse_init_in in = {.major = FUSE_KERNEL_VERSION, .minor = 36, .max_readahead = 1 << 17, .flags = FUSE_INIT_EXT};
    ask(transport, FUSE_INIT, 0, &in, sizeof in, sizeof(struct fuse_init_out));
}

static void a_host_mounts_and_reads(void) {
    struct transport transport = {0};
    struct dpfs_config config = {.size = sizeof config, .max_write = 65536, .file_size = 10000};
    struct dpfs_worker *served = worker(device(&config), &transport);

    init(&transport);
    CHECK(dpfs_worker_round(served, now()) == 1);
    const struct fuse_init_out *session = answered(&transport.all[0], 0, sizeof(struct fuse_init_out));
    CHECK(session->major == FUSE_KERNEL_VERSION && session->minor == 36 && session->max_write == 65536);

    struct exchange *lookup = ask(&transport, FUSE_LOOKUP, FUSE_ROOT_ID, "file", 5, sizeof(struct fuse_entry_out));
    CHECK(dpfs_worker_round(served, now()) == 1);
    const struct fuse_entry_out *entry = answered(lookup, 0, sizeof(struct fuse_entry_out));
    CHECK(entry->nodeid != 0 && entry->attr.size == 10000 && (entry->attr.mode & 0170000) == 0100000);

    struct fuse_open_in open = {0};
    struct exchange *opened = ask(&transport, FUSE_OPEN, entry->nodeid, &open, sizeof open, sizeof(struct fuse_open_out));
    struct fuse_read_in read = {.offset = 0, .size = 8192};
    struct exchange *whole = ask(&transport, FUSE_READ, entry->nodeid, &read, sizeof read, 8192);
    read.offset = 8192;
    struct exchange *rest = ask(&transport, FUSE_READ, entry->nodeid, &read, sizeof read, 8192);
    CHECK(dpfs_worker_round(served, now()) == 1);
    answered(opened, 0, sizeof(struct fuse_open_out));
    const unsigned char *bytes = answered(whole, 0, 8192);
    for (size_t i = 0; i < 8192; i++) CHECK(bytes[i] == 0);
    CHECK(bytes[8192] == 0xa5);
    bytes = answered(rest, 0, 10000 - 8192);
    CHECK(bytes[10000 - 8192 - 1] == 0);

    CHECK(dpfs_worker_round(served, now()) == 0 && dpfs_worker_in_flight(served) == 0);
    CHECK(dpfs_worker_deadline(served) == UINT64_MAX && transport.flushes >= 4);
    struct dpfs_counts counts;
    CHECK(dpfs_worker_counts(served, &counts) == 0);
    CHECK(counts.requests == 5 && counts.errors == 0 && counts.refused == 0);
    CHECK(dpfs_worker_shutdown(served) == 0);
}

static void what_is_malformed_is_answered_and_the_rest_served(void) {
    struct transport transport = {0};
    struct dpfs_config config = {.size = sizeof config};
    struct dpfs_device *mounted = device(&config);
    struct dpfs_worker *served = worker(mounted, &transport);
    init(&transport);
    struct exchange *many = ask(&transport, FUSE_GETATTR, 1, NULL, 0, 0);
    many->broken = 1;
    struct exchange *nowhere = ask(&transport, FUSE_GETATTR, 1, NULL, 0, 0);
    nowhere->broken = 2;
    struct exchange *unnamed = ask(&transport, FUSE_LOOKUP, 1, "a/b", 4, sizeof(struct fuse_entry_out));
    struct exchange *endless = ask(&transport, FUSE_LOOKUP, 1, "ab", 2, sizeof(struct fuse_entry_out));
    struct exchange *headless = ask(&transport, FUSE_STATFS, 1, NULL, 0, 0);
    headless->sent_len = 20;
    struct exchange *unknown = ask(&transport, 4095, 1, NULL, 0, 0);
    struct exchange *stat = ask(&transport, FUSE_STATFS, 1, NULL, 0, sizeof(struct fuse_statfs_out));
    while (dpfs_worker_round(served, now()) == 1) continue;
    CHECK(many->completed && many->written == 0 && nowhere->completed && nowhere->written == 0);
    CHECK(headless->completed && headless->written == 0);
    answered(unnamed, EINVAL, 0);
    answered(endless, EINVAL, 0);
    answered(unknown, ENOSYS, 0);
    answered(stat, 0, sizeof(struct fuse_statfs_out));
    struct dpfs_counts counts;
    CHECK(dpfs_worker_counts(served, &counts) == 0);
    CHECK(counts.requests == 6 && counts.errors == 4 && counts.refused == 2);

    /* Without a session nothing of a file is answered. */
    CHECK(dpfs_device_reset(mounted) == 0);
    struct exchange *late = ask(&transport, FUSE_STATFS, 1, NULL, 0, sizeof(struct fuse_statfs_out));
    CHECK(dpfs_worker_round(served, now()) == 1);
    CHECK(late->completed && late->written == sizeof(struct fuse_out_header));
}

static void a_limit_makes_the_host_wait(void) {
    struct transport transport = {0};
    struct dpfs_config config = {.size = sizeof config, .iops = 2};
    struct dpfs_worker *served = worker(device(&config), &transport);
    init(&transport);
    /* Two are half a second each; one fits into the tenth of a second that may be used at once. */
    uint64_t time = 1000000000;
    CHECK(dpfs_worker_round(served, time) == 1);
    struct exchange *waits = ask(&transport, FUSE_STATFS, 1, NULL, 0, sizeof(struct fuse_statfs_out));
    CHECK(dpfs_worker_round(served, time) == 0 && !waits->completed);
    uint64_t due = dpfs_worker_deadline(served);
    CHECK(due > time && due <= time + 500000000);
    CHECK(dpfs_worker_round(served, due - 1) == 0 && !waits->completed);
    CHECK(dpfs_worker_round(served, due) == 1 && waits->completed);
}

static void what_is_not_allowed_is_refused(void) {
    static char memory[1 << 16];
    struct dpfs_config config = {.size = sizeof config};
    struct dpfs_device *made = NULL;
    CHECK(dpfs_version() == DPFS_VERSION);
    CHECK(dpfs_device_new(NULL, memory, sizeof memory, &made) == -EINVAL);
    CHECK(dpfs_device_new(&config, NULL, sizeof memory, &made) == -EINVAL);
    CHECK(dpfs_device_new(&config, memory, sizeof memory, NULL) == -EINVAL);
    CHECK(dpfs_device_new(&config, memory, 8, &made) == -ENOMEM);
    config.size = 8;
    CHECK(dpfs_device_new(&config, memory, sizeof memory, &made) == -EINVAL);
    config = (struct dpfs_config){.size = sizeof config, .host = 2};
    CHECK(dpfs_device_new(&config, memory, sizeof memory, &made) == -EINVAL);
    config = (struct dpfs_config){.size = sizeof config, .max_write = 5000};
    CHECK(dpfs_device_new(&config, memory, sizeof memory, &made) == -EINVAL);
    config = (struct dpfs_config){.size = sizeof config, .max_background = 65536};
    CHECK(dpfs_device_new(&config, memory, sizeof memory, &made) == -EINVAL);
    CHECK(made == NULL && dpfs_device_reset(NULL) == -EINVAL);

    config = (struct dpfs_config){.size = sizeof config};
    struct dpfs_device *good = device(&config);
    struct dpfs_queue queue = {NULL, take, complete, NULL};
    struct dpfs_worker *served = NULL;
    CHECK(dpfs_worker_memory(0, 1) == 0 && dpfs_worker_memory(1, 0) == 0 && dpfs_worker_memory(1, 1 << 16) == 0);
    CHECK(dpfs_worker_new(good, &queue, 0, DEPTH, memory, sizeof memory, &served) == -EINVAL);
    CHECK(dpfs_worker_new(good, &queue, 1, 1 << 16, memory, sizeof memory, &served) == -EINVAL);
    CHECK(dpfs_worker_new(NULL, &queue, 1, DEPTH, memory, sizeof memory, &served) == -EINVAL);
    CHECK(dpfs_worker_new(good, &queue, 1, DEPTH, memory, 4096, &served) == -ENOMEM);
    queue.poll = NULL;
    CHECK(dpfs_worker_new(good, &queue, 1, DEPTH, memory, sizeof memory, &served) == -EINVAL);
    CHECK(served == NULL && dpfs_worker_round(NULL, 0) == -EINVAL && dpfs_worker_shutdown(NULL) == -EINVAL);
    CHECK(dpfs_worker_counts(NULL, NULL) == -EINVAL && dpfs_worker_deadline(NULL) == UINT64_MAX);
}

int main(void) {
    a_host_mounts_and_reads();
    what_is_malformed_is_answered_and_the_rest_served();
    a_limit_makes_the_host_wait();
    what_is_not_allowed_is_refused();
    puts("embed: ok");
    return 0;
}
