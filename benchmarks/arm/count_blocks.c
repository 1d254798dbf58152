/*
 * Plugin for QEMU's user emulation: how often each translated block of guest code ran, with its instructions.
 *
 *     cc -O2 -shared -fPIC count_blocks.c -o count_blocks.so
 *     qemu-aarch64 -plugin count_blocks.so,out=FILE PROGRAM ...
 *
 * FILE gets, for each block: uint64 address, uint64 count, uint64 n, n instructions of 4 bytes.
 *
 * Plugin interface version 1 (QEMU 4.2 to 8.2), declared here because distributions do not ship its header. Counting
 * is inline and not atomic: for programs that compute in one thread.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef uint64_t plugin_id;
enum { INLINE_ADD_U64 = 0 };

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
extern void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = 1;

struct block {
    struct block *next;
    uint64_t address, count, size;
    uint32_t code[];
};
static struct block *blocks; /* translation runs under QEMU's lock */
static FILE *out;

static void translated(plugin_id id, struct qemu_plugin_tb *tb) {
    size_t size = qemu_plugin_tb_n_insns(tb);
    struct block *block = calloc(1, sizeof *block + 4 * size);
    (void)id;
    if (block == NULL)
        abort();
    block->address = qemu_plugin_tb_vaddr(tb);
    block->size = size;
    for (size_t i = 0; i < size; i++)
        memcpy(&block->code[i], qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, i)), 4);
    block->next = blocks;
    blocks = block;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, INLINE_ADD_U64, &block->count, 1);
}

static void ended(plugin_id id, void *data) {
    (void)id;
    (void)data;
    for (struct block *block = blocks; block != NULL; block = block->next)
        if (block->count)
            fwrite(&block->address, 1, 24 + 4 * block->size, out);
    fclose(out);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    (void)info;
    if (argc != 1 || strncmp(argv[0], "out=", 4) != 0 || (out = fopen(argv[0] + 4, "wb")) == NULL) {
        fprintf(stderr, "count_blocks: give out=FILE\n");
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
