/* A plugin of QEMU's TCG: counts the instructions that a guest executes, in the kernel and in user mode apart, and
 * prints the counts since the last marker whenever the guest executes a marker (see guest-io.c).
 *
 *   cc -O2 -shared -fPIC -o tcg-count.so tcg-count.c
 *   qemu-system-x86_64 -accel tcg ... -plugin tcg-count.so,out=FILE[,places=FILE]
 *
 * A line of FILE:            marker=N kernel=INSTRUCTIONS user=INSTRUCTIONS string=ITERATIONS
 * A line of the places' FILE, for each kernel instruction executed between markers 1 and 2:
 *                            SECTION ADDRESS TIMES
 *
 * Kernel and user are told apart by the instruction's address. A repeated string instruction (rep movs...) runs here
 * once an iteration, and a processor counts it once: those iterations are counted by themselves and in neither.
 *
 * QEMU's plugin header is in no Debian package, so what is used of it stands here: version 4 of the interface, of
 * QEMU 9.1 and later. The functions are found in the program that loads the plugin. */
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))
EXPORTED int qemu_plugin_version = 4;

typedef uint64_t plugin_id;
struct block;
struct instruction;
struct scoreboard; /* an array with an element for each CPU */
typedef struct {
    struct scoreboard *board;
    size_t offset;
} counter;
enum { ADD_U64 = 0 };
enum { NO_REGISTERS = 0 };

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct block *));
extern size_t qemu_plugin_tb_n_insns(const struct block *);
extern struct instruction *qemu_plugin_tb_get_insn(const struct block *, size_t);
extern uint64_t qemu_plugin_insn_vaddr(const struct instruction *);
extern size_t qemu_plugin_insn_data(const struct instruction *, void *, size_t);
extern size_t qemu_plugin_insn_size(const struct instruction *);
extern void qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(struct instruction *, int, counter, uint64_t);
extern void qemu_plugin_register_vcpu_insn_exec_cb(struct instruction *, void (*)(unsigned, void *), int, void *);
extern struct scoreboard *qemu_plugin_scoreboard_new(size_t);
extern uint64_t qemu_plugin_u64_sum(counter);

enum { KERNEL, USER, STRING, KINDS };
static counter counters[KINDS];
static uint64_t last[KINDS];
static FILE *out, *places;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* How often each kernel instruction was executed: an open hash of addresses; what finds no room is not counted. */
enum { PLACE_BITS = 20, PLACES = 1 << PLACE_BITS };
static uint64_t place_address[PLACES], place_last[PLACES];
static struct scoreboard *place_board;
static int placed, section;

static int place_of(uint64_t address)
{
    uint64_t i = (address * 0x9e3779b97f4a7c15u) >> (64 - PLACE_BITS);

    while (place_address[i] && place_address[i] != address)
        i = (i + 1) % PLACES;
    if (!place_address[i]) {
        if (placed == PLACES / 2)
            return -1;
        placed++;
        place_address[i] = address;
    }
    return i;
}

static void print_places(int marker)
{
    section += marker == 2;
    for (int i = 0; i < PLACES; i++) {
        uint64_t sum;

        if (!place_address[i])
            continue;
        sum = qemu_plugin_u64_sum((counter){ place_board, i * sizeof(uint64_t) });
        if (marker == 2 && sum != place_last[i])
            fprintf(places, "%d %016lx %lu\n", section, place_address[i], sum - place_last[i]);
        place_last[i] = sum;
    }
    fflush(places);
}

static void at_marker(unsigned cpu, void *marker)
{
    uint64_t delta[KINDS];

    (void)cpu;
    pthread_mutex_lock(&lock);
    for (int kind = 0; kind < KINDS; kind++) {
        uint64_t sum = qemu_plugin_u64_sum(counters[kind]);

        delta[kind] = sum - last[kind];
        last[kind] = sum;
    }
    fprintf(out, "marker=%ld kernel=%lu user=%lu string=%lu\n", (long)(intptr_t)marker, delta[KERNEL], delta[USER],
            delta[STRING]);
    fflush(out);
    if (places)
        print_places((intptr_t)marker);
    pthread_mutex_unlock(&lock);
}

static int is_repeated_string(const uint8_t *code, size_t size)
{
    int repeated = 0;
    size_t i = 0;

    /* Prefixes: rep and repne; operand size, segments in use, REX. */
    for (; i < size; i++) {
        if (code[i] == 0xf2 || code[i] == 0xf3)
            repeated = 1;
        else if (code[i] != 0x65 && code[i] != 0x66 && (code[i] & 0xf0) != 0x40)
            break;
    }
    if (!repeated || i == size)
        return 0;
    /* movs, cmps; stos, lods, scas; ins, outs */
    return (code[i] >= 0xa4 && code[i] <= 0xa7) || (code[i] >= 0xaa && code[i] <= 0xaf) ||
           (code[i] >= 0x6c && code[i] <= 0x6f);
}

/* nopl 0x7f5afeNN(%rax): NN is the marker's number. */
static int is_marker(const uint8_t *code, size_t size)
{
    return size == 7 && code[0] == 0x0f && code[1] == 0x1f && code[2] == 0x80 && code[4] == 0xfe && code[5] == 0x5a &&
           code[6] == 0x7f;
}

static void translated(plugin_id id, struct block *block)
{
    (void)id;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
        struct instruction *instruction = qemu_plugin_tb_get_insn(block, i);
        uint64_t address = qemu_plugin_insn_vaddr(instruction);
        int in_kernel = address >> 63;
        uint8_t code[16] = { 0 };
        size_t size = qemu_plugin_insn_size(instruction);
        int kind;

        if (size > sizeof(code) || qemu_plugin_insn_data(instruction, code, size) != size)
            size = 0;
        kind = is_repeated_string(code, size) ? STRING : in_kernel ? KERNEL : USER;
        qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(instruction, ADD_U64, counters[kind], 1);
        if (places && kind == KERNEL) {
            int place;

            pthread_mutex_lock(&lock);
            place = place_of(address);
            pthread_mutex_unlock(&lock);
            if (place >= 0)
                qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
                    instruction, ADD_U64, (counter){ place_board, place * sizeof(uint64_t) }, 1);
        }
        if (!in_kernel && is_marker(code, size))
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, at_marker, NO_REGISTERS, (void *)(intptr_t)code[3]);
    }
}

EXPORTED int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    struct scoreboard *board = qemu_plugin_scoreboard_new(KINDS * sizeof(uint64_t));

    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4))
            out = fopen(argv[i] + 4, "w");
        if (!strncmp(argv[i], "places=", 7))
            places = fopen(argv[i] + 7, "w");
    }
    if (!out) {
        fprintf(stderr, "tcg-count: out=FILE is missing or cannot be written\n");
        return -1;
    }
    for (int kind = 0; kind < KINDS; kind++)
        counters[kind] = (counter){ board, kind * sizeof(uint64_t) };
    if (places)
        place_board = qemu_plugin_scoreboard_new(PLACES * sizeof(uint64_t));
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
