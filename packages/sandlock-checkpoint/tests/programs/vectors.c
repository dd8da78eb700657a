/* Adds numbers in vector registers without a pause, and checks the sum every time; prints a line now and then. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef __AVX2__
typedef double vector __attribute__((vector_size(32)));
#define NUMBERS(a, b, c, d) {a, b, c, d}
#else
typedef double vector __attribute__((vector_size(16)));
#define NUMBERS(a, b, c, d) {a, b}
#endif

int main(int argc, char **argv)
{
    long seconds = argc > 1 ? atol(argv[1]) : 3;
    double total[4] = {0, 0, 0, 0};
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (unsigned round = 0;; round++) {
        vector a = NUMBERS(1, 2, 3, 4), b = NUMBERS(5, 6, 7, 8), c = NUMBERS(0, 0, 0, 0);
        vector d = NUMBERS(0.5, 0.25, 0.125, 0.0625);
        for (int step = 0; step < 100000; step++) {
            c += a;
            a = a * 1.0 + d;
            b -= d;
            __asm__ volatile("" : "+x"(a), "+x"(b), "+x"(c), "+x"(d)); /* they stay in registers */
        }
        if (!round)
            memcpy(total, &c, sizeof c);
        if (memcmp(total, &c, sizeof c)) {
            printf("wrong in round %u\n", round);
            return 1;
        }
        if (round % 200 == 0) {
            printf("round %u\n", round);
            fflush(stdout);
            clock_gettime(CLOCK_MONOTONIC, &now);
            if (now.tv_sec - start.tv_sec > seconds)
                break;
        }
    }
    printf("right\n");
    return 0;
}
