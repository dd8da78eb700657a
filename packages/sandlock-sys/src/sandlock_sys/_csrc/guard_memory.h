/* What a compiler calls to clear or copy a structure even where there is no libc (gcc's manual, -ffreestanding): gcc does so
 * on riscv64. Volatile, or it would make a call of the same function of these loops.
 */
#ifndef SANDLOCK_GUARD_MEMORY_H
#define SANDLOCK_GUARD_MEMORY_H

#include <stddef.h>

void *memset(void *to, int byte, size_t count);
void *memcpy(void *restrict to, const void *restrict from, size_t count);

void *memset(void *to, int byte, size_t count)
{
    for (volatile unsigned char *c = to; count; count--)
        *c++ = (unsigned char)byte;
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t count)
{
    const unsigned char *source = from;
    for (volatile unsigned char *c = to; count; count--)
        *c++ = *source++;
    return to;
}

#endif
