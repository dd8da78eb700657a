#include "guard.h"

#include <sys/socket.h>

#include "raw.h"

_Static_assert(sizeof(struct sl_order) == 8, "one order");
_Static_assert(sizeof(struct sl_report) == 32, "one report");

long sl_guard_order(int control, uint32_t kind, int32_t signal)
{
    struct sl_order order = {.kind = kind, .signal = signal};
    return RAW(__NR_sendto, control, &order, sizeof order, MSG_NOSIGNAL | MSG_DONTWAIT, 0, 0);
}

long sl_guard_hang_up(int control, int how)
{
    return RAW(__NR_shutdown, control, how);
}

long sl_close(int fd)
{
    return RAW(__NR_close, fd);
}
