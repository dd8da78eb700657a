/* Maps memory of every kind, prints a checksum of all of it, and again when the file argv[1] is there. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MB (1UL << 20)

static uint64_t sum(const unsigned char *at, size_t length, uint64_t value)
{
    for (size_t index = 0; index < length; index++)
        value = (value ^ at[index]) * 1099511628211UL;
    return value;
}

static void fill(unsigned char *at, size_t length, unsigned seed)
{
    for (size_t index = 0; index < length; index++)
        at[index] = (unsigned char)(seed = seed * 1103515245 + 12345) ^ (seed >> 16);
}

int main(int argc, char **argv)
{
    const char *flag = argv[1];
    size_t large = (argc > 3 ? strtoul(argv[3], NULL, 10) : 64) * MB;
    int file = open(argv[2], O_RDWR | O_CREAT | O_TRUNC, 0600);
    unsigned char page[4096];
    for (unsigned number = 0; number < 16; number++) {
        fill(page, sizeof page, number);
        if (write(file, page, sizeof page) != sizeof page)
            return 2;
    }
    unsigned char *sparse = mmap(NULL, large, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (size_t at = 0; at < large; at += 3 * MB)
        fill(sparse + at, 5000, at);
    unsigned char *dense = malloc(5 * MB);
    fill(dense, 5 * MB, 77);
    unsigned char *copied = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    fill(copied + 8192, 4096, 5);
    memset(copied + 16384, 0, 4096); /* zeros that are not the file's */
    mprotect(copied, 16384, PROT_READ);
    unsigned char *shared_file = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    unsigned char *shared = mmap(NULL, 4 * MB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    fill(shared + MB, 10000, 6);
    int memory = memfd_create("numbers", MFD_ALLOW_SEALING);
    if (ftruncate(memory, 3 * MB))
        return 3;
    unsigned char *first = mmap(NULL, 3 * MB, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    unsigned char *second = mmap(NULL, MB, PROT_READ | PROT_WRITE, MAP_SHARED, memory, MB);
    unsigned char *apart = mmap(NULL, MB, PROT_READ | PROT_WRITE, MAP_PRIVATE, memory, 0);
    fill(first + 500000, 700000, 8);
    fill(apart + 4096, 4096, 9);
    fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
    unsigned char *code = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fill(code, 8192, 10);
    mprotect(code, 4096, PROT_READ | PROT_EXEC);
    mprotect(code + 4096, 4096, PROT_NONE);
    unsigned char *reserved = mmap(NULL, 1UL << 36, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    madvise(shared, 4 * MB, MADV_DONTDUMP);
    char *name = strdup("/sandlock-gone-XXXXXX");
    char path[4200];
    snprintf(path, sizeof path, "%s.gone", argv[2]);
    int gone = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (write(gone, "what was in it", 14) != 14)
        return 4;
    unlink(path);
    unsigned char *gone_view = mmap(NULL, 4096, PROT_READ, MAP_SHARED, gone, 0);
    unsigned char *heap_end = sbrk(0);
    for (int turn = 0; turn < 2; turn++) {
        uint64_t value = sum(sparse, large, 14695981039346656037UL);
        value = sum(dense, 5 * MB, value);
        value = sum(copied, 65536, value);
        value = sum(shared_file, 65536, value);
        value = sum(shared, 4 * MB, value);
        value = sum(first, 3 * MB, value);
        value = sum(apart, MB, value);
        value = sum(code, 4096, value);
        mprotect(code + 4096, 4096, PROT_READ);
        value = sum(code + 4096, 4096, value);
        mprotect(code + 4096, 4096, PROT_NONE);
        value = sum(gone_view, 14, value);
        first[MB + 5] ^= 0; /* both views are one memory: */
        unsigned char old = first[MB + 7];
        second[7] = (unsigned char)(old + 1);
        int one = first[MB + 7] == (unsigned char)(old + 1) && apart[7] == 0;
        second[7] = old;
        printf("sum %016lx one %d seals %d brk %d size %ld %s\n", value, one, fcntl(memory, F_GET_SEALS),
               sbrk(0) == heap_end && sbrk(4096) == heap_end && sbrk(-4096) != (void *)-1, (long)lseek(memory, 0, SEEK_END),
               reserved && name ? "kept" : "");
        fflush(stdout);
        while (!turn && access(flag, F_OK))
            usleep(5000);
    }
    return 0;
}
