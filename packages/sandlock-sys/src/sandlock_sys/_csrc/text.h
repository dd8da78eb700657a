#ifndef SANDLOCK_TEXT_H
#define SANDLOCK_TEXT_H

#include <stdint.h>

/* Text and numbers behind one another; each returns where the next one goes. Room is the caller's business. */
static inline char *sl_put(char *at, const char *text)
{
    while (*text)
        *at++ = *text++;
    *at = 0;
    return at;
}

static inline char *sl_put_number(char *at, uint32_t number)
{
    char digits[10];
    int count = 0;
    do
        digits[count++] = (char)('0' + number % 10);
    while (number /= 10);
    while (count)
        *at++ = digits[--count];
    *at = 0;
    return at;
}

#endif
