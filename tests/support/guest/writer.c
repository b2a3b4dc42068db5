/*
 * How does the guest write so that a reader of the image can tell afterwards
 * whether anyone else ever wrote to it? block.py says what a block holds,
 * checker.py what must be on the disk; this is the one that puts it there.
 *
 * writer DEVICE nonce=HEX [guest=NAME] [count=N] (other words are ignored: they
 * are the kernel's) runs until SIGTERM, until N blocks are written, or until the
 * disk is gone. writer alone prints a new nonce.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <x86intrin.h>

enum { BLOCK = 4096, MAX_SLOTS = 4096, MIN_SLOTS = 256, MAX_BOOTS = 128, GAP = 64 };
enum kind { NONE, FOREIGN, LOST, TORN };

struct boot {
    uint64_t nonce, first, last;
};

struct block {
    char magic[8];
    uint64_t seq;
    uint32_t slots, boots;
    char guest[16];
    struct {
        uint32_t kind, slot;
        uint64_t found_nonce, found_seq, nonce, seq;
    } conflict;
    struct boot history[MAX_BOOTS];
    unsigned char unused[BLOCK - 4 - 80 - MAX_BOOTS * sizeof(struct boot)];
    uint32_t crc;
};
_Static_assert(sizeof(struct block) == BLOCK, "a block is one page");

static const char MAGIC[8] = {'L', 'S', 'G', 'U', 'E', 'S', 'T', '1'};
static const char *disk;
static int disk_fd;
static uint32_t slots;
static struct block *image, *old, *next;    /* the whole area; one block read, one written */
static struct { uint64_t seq, print; } want[MAX_SLOTS]; /* what each slot must hold */
static volatile sig_atomic_t stopping;

static void stop(int signal) {
    (void)signal;
    stopping = 1;
}

static _Noreturn void die(const char *verb, const char *reason) {
    printf("guest: cannot %s %s: %s\n", verb, disk, reason);
    exit(1);
}

/* zlib's crc32, eight bytes at a time: under emulation the plain loop is too slow. */
static uint32_t crc32(const void *data, size_t length) {
    static uint32_t table[8][256];
    if (!table[0][1])
        for (int row = 0; row < 8; row++)
            for (uint32_t i = 0; i < 256; i++) {
                uint32_t crc = row ? table[row - 1][i] : i;
                for (int bit = 0; bit < 8; bit++)
                    crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
                table[row][i] = crc;
            }
    const unsigned char *byte = data;
    uint32_t crc = ~0u;
    for (; length >= 8; length -= 8, byte += 8) {
        uint64_t word;
        memcpy(&word, byte, 8);
        word ^= crc;
        crc = 0;
        for (int row = 7; row >= 0; row--, word >>= 8)
            crc ^= table[row][word & 255];
    }
    while (length--)
        crc = crc >> 8 ^ table[0][(crc ^ *byte++) & 255];
    return ~crc;
}

/* A fingerprint of any page. Not the checksum of the whole: over a block and its own checksum
 * that is the same number for every block. */
static uint64_t print_of(const struct block *b) {
    return (uint64_t)crc32(b, BLOCK - 4) << 32 | b->crc;
}

static int is_empty(const struct block *b) {
    const char *byte = (const char *)b;
    return !*byte && !memcmp(byte, byte + 1, BLOCK - 1);
}

static int is_valid(const struct block *b, uint32_t slot) {
    return !memcmp(b->magic, MAGIC, sizeof MAGIC) && b->crc == crc32(b, BLOCK - 4) &&
           b->slots == slots && b->seq % slots == slot && b->boots && b->boots <= MAX_BOOTS;
}

static uint64_t nonce_of(const struct block *b) { return b->history[b->boots - 1].nonce; }

static const struct boot *boot_called(uint64_t nonce) {
    for (uint32_t i = 0; i < next->boots; i++)
        if (next->history[i].nonce == nonce)
            return &next->history[i];
    return NULL;
}

/* A boot killed while writing may leave that one block torn: its next one, or a
 * successor's very first, which is GAP or more further on. */
static int may_be_torn(uint32_t slot) {
    for (uint32_t i = 0; i <= next->boots; i++) {
        uint64_t last = i ? next->history[i - 1].last : 0;
        uint64_t offset = (slot + slots - last % slots) % slots;
        if ((offset == 1 || (offset > GAP && offset <= 2 * GAP)) && want[slot].seq < last + offset)
            return 1;
    }
    return 0;
}

/* What is wrong with `found` in a slot that must hold want[slot] (checker.py: judge_slot)? */
static enum kind judge(const struct block *found, uint32_t slot) {
    uint64_t seq = want[slot].seq;
    int older_than_history = next->boots == MAX_BOOTS && !seq;
    if (is_empty(found))
        return seq ? LOST : NONE;
    if (!is_valid(found, slot))
        return older_than_history || may_be_torn(slot) ? NONE : TORN;
    const struct boot *boot = boot_called(nonce_of(found));
    if (boot && found->seq == seq && seq >= boot->first && seq <= boot->last)
        return NONE;
    if (next->boots == MAX_BOOTS && found->seq < next->history[0].first)
        return older_than_history ? NONE : LOST;
    return boot && found->seq < seq ? LOST : FOREIGN;
}

/* The first conflict, or the first foreign one, stays in all later blocks, of later boots too. */
static void remember(enum kind kind, const struct block *found, uint32_t slot) {
    static const char *const words[] = {"", "foreign", "lost", "torn"};
    if (!kind || next->conflict.kind == FOREIGN || (next->conflict.kind && kind != FOREIGN))
        return;
    int valid = is_valid(found, slot);
    next->conflict.kind = kind;
    next->conflict.slot = slot;
    next->conflict.found_nonce = valid ? nonce_of(found) : 0;
    next->conflict.found_seq = valid ? found->seq : 0;
    next->conflict.nonce = nonce_of(next);
    next->conflict.seq = next->seq;
    printf("conflict disk=%s kind=%s slot=%u seq=%lu\n", disk, words[kind], slot, next->seq);
}

/* Takes over from the newest block on the disk, and judges what the disk holds by its history. */
static void inherit(void) {
    const struct block *newest = NULL;
    uint32_t garbage = 0;
    for (uint32_t slot = 0; slot < slots; slot++) {
        const struct block *b = image + slot;
        want[slot].print = print_of(b);
        if (is_valid(b, slot))
            newest = newest && newest->seq > b->seq ? newest : b;
        else
            garbage += !is_empty(b);
    }
    if (!newest && garbage > 1)
        die("write", "it holds something else");
    if (newest) {
        next->conflict = newest->conflict;
        next->seq = newest->seq;
        next->boots = newest->boots;
        memcpy(next->history, newest->history, sizeof next->history);
    }
    for (uint32_t i = 0; i < next->boots; i++) {
        struct boot *boot = &next->history[i];
        uint64_t seq = boot->first + slots > boot->last ? boot->first : boot->last - slots + 1;
        for (; seq <= boot->last; seq++)
            want[seq % slots].seq = seq;
    }
}

static void begin(uint64_t nonce, const char *guest) {
    enum kind kind = NONE;
    uint32_t slot = 0;
    for (uint32_t i = 0; i < slots && kind != FOREIGN; i++) {
        enum kind found = judge(image + i, i);
        if (found && (!kind || found == FOREIGN)) {
            kind = found;
            slot = i;
        }
    }
    if (boot_called(nonce))
        die("write", "an earlier boot had the same nonce");
    if (next->boots == MAX_BOOTS)
        memmove(next->history, next->history + 1, --next->boots * sizeof *next->history);
    /* The gap keeps what a predecessor wrote too late where the checker sees it. */
    next->seq += 1 + GAP + nonce % GAP;
    next->history[next->boots++] = (struct boot){nonce, next->seq, next->seq};
    next->slots = slots;
    memcpy(next->magic, MAGIC, sizeof MAGIC);
    strncpy(next->guest, guest, sizeof next->guest);
    remember(kind, image + slot, slot);
}

static void transfer(ssize_t done) {
    if (done == BLOCK)
        return;
    const char *reason = done < 0 ? strerror(errno) : "short transfer";
    if (lseek(disk_fd, 0, SEEK_END) > 0)
        die("write", reason);
    printf("unplugged disk=%s\n", disk);
    exit(0);
}

/* Reads what it is about to overwrite: evidence must not be destroyed unseen. */
static void write_next(void) {
    uint32_t slot = next->seq % slots;
    transfer(pread(disk_fd, old, BLOCK, (off_t)slot * BLOCK));
    if (print_of(old) != want[slot].print) {
        enum kind kind = judge(old, slot);
        remember(kind ? kind : FOREIGN, old, slot);
    }
    next->history[next->boots - 1].last = next->seq;
    next->crc = crc32(next, BLOCK - 4);
    transfer(pwrite(disk_fd, next, BLOCK, (off_t)slot * BLOCK));
    want[slot].seq = next->seq;
    want[slot].print = print_of(next);
}

static void *pages(size_t count) {
    void *memory = aligned_alloc(BLOCK, count * BLOCK);
    if (!memory)
        die("write", "out of memory");
    return memset(memory, 0, count * BLOCK);
}

static void read_image(void) {
    off_t size = lseek(disk_fd, 0, SEEK_END) / BLOCK;
    if (size < MIN_SLOTS)
        die("write", "it is smaller than 1 MiB");
    slots = size < MAX_SLOTS ? size : MAX_SLOTS;
    image = pages(slots);
    for (uint32_t slot = 0; slot < slots;) {
        ssize_t done = pread(disk_fd, image + slot, (slots - slot) * BLOCK, (off_t)slot * BLOCK);
        if (done <= 0 || done % BLOCK)
            die("read", done < 0 ? strerror(errno) : "short transfer");
        slot += done / BLOCK;
    }
}

static int print_new_nonce(void) {
    uint64_t nonce = 0;
    getrandom(&nonce, sizeof nonce, GRND_INSECURE);
    nonce ^= __rdtsc() << 24; /* this early after boot random numbers may repeat */
    printf("%016lx\n", nonce | 1ul << 63);
    return 0;
}

int main(int argc, char **argv) {
    uint64_t nonce = 0, count = UINT64_MAX;
    const char *guest = "";
    if (argc < 2)
        return print_new_nonce();
    disk = strrchr(argv[1], '/') + 1;
    setlinebuf(stdout);
    for (int i = 2; i < argc; i++) {
        if (!strncmp(argv[i], "nonce=", 6))
            nonce = strtoull(argv[i] + 6, NULL, 16);
        if (!strncmp(argv[i], "guest=", 6))
            guest = argv[i] + 6;
        if (!strncmp(argv[i], "count=", 6))
            count = strtoull(argv[i] + 6, NULL, 10);
    }
    if (!nonce)
        die("write", "no nonce given");
    signal(SIGTERM, stop);
    disk_fd = open(argv[1], O_RDWR | O_DIRECT | O_DSYNC);
    if (disk_fd < 0)
        die("open", strerror(errno));
    old = pages(1);
    next = pages(1);
    read_image();
    inherit();
    begin(nonce, guest);
    free(image);
    for (uint64_t written = 0; written < count && !stopping; written++, next->seq++) {
        write_next();
        if (!written)
            printf("ready nonce=%016lx disk=%s seq=%lu\n", nonce, disk, next->seq);
    }
    printf("done nonce=%016lx disk=%s seq=%lu\n", nonce, disk, next->seq - 1);
    return 0;
}
