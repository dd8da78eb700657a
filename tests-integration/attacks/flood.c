/* flood BYTES: writes as many bytes to stdout ('o') and to stderr ('e') in turns, reads stdin to its end, reports nothing. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    static char out[65536], err[65536];
    long left = argc > 1 ? atol(argv[1]) : 0;
    memset(out, 'o', sizeof out);
    memset(err, 'e', sizeof err);
    while (left > 0) {
        size_t part = left < (long)sizeof out ? (size_t)left : sizeof out;
        for (int fd = 1; fd <= 2; fd++)
            for (size_t done = 0; done < part;) {
                ssize_t wrote = write(fd, (fd == 1 ? out : err) + done, part - done);
                if (wrote <= 0)
                    return 3;
                done += (size_t)wrote;
            }
        left -= (long)part;
    }
    return 0;
}
