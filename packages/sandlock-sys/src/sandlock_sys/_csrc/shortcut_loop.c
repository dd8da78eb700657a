/* Which requests are the shortcut's, and how long it goes on. */
#include "shortcut.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "capabilities.h"
#include "destinations.h"
#include "notif.h"

static struct sl_shortcut_row *row_of(struct sl_shortcut *shortcut, const struct sl_notif_request *request)
{
    if (request->arch != shortcut->arch || !request->pid)
        return NULL;
    for (uint32_t index = 0; index < shortcut->row_count; index++)
        if (shortcut->rows[index].number == request->nr)
            return &shortcut->rows[index];
    return NULL;
}

static int serve_socket(const struct sl_shortcut *shortcut, const struct sl_notif_request *request, int connects)
{
    struct sl_destinations *known = shortcut->destinations;
    return known && (connects ? sl_destinations_connect : sl_destinations_send)(known, shortcut->listener, request);
}

int sl_shortcut_knows(const struct sl_shortcut *shortcut, const void *request)
{
    return !__atomic_load_n(&shortcut->stale, __ATOMIC_ACQUIRE) && row_of((struct sl_shortcut *)shortcut, request) != NULL;
}

/* Whether no more may be served before the caller has looked at other things. */
static int over(struct sl_shortcut *shortcut)
{
    struct timespec now;
    if (!shortcut->left || !--shortcut->left)
        return 1;
    if (!shortcut->until_ns)
        return 0;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec >= shortcut->until_ns;
}

/* Serves the request that was taken, or the next one, and those that follow. */
static long go_on(struct sl_shortcut *shortcut, void *request, int taken, int64_t wait_ns)
{
    uint64_t privileges = 0, none;
    int given_up = 0;
    long result;
    for (;; taken = 0) {
        result = taken ? 1 : sl_notif_next(shortcut->listener, request, wait_ns);
        if (result != 1)
            break;
        struct sl_shortcut_row *row = row_of(shortcut, request);
        if (!row || __atomic_load_n(&shortcut->stale, __ATOMIC_ACQUIRE))
            break;
        int on_socket = row->kind >= SL_SHORTCUT_CONNECT, give_up = shortcut->privileged && !on_socket;
        if (give_up != given_up) {
            if (sl_capabilities_set(give_up ? 0 : privileges, give_up ? &privileges : &none) < 0)
                break;
            given_up = give_up;
        }
        if (!(on_socket ? serve_socket(shortcut, request, row->kind == SL_SHORTCUT_CONNECT)
                        : sl_shortcut_file(shortcut, request, row)))
            break;
        shortcut->served++;
        row->served++;
        wait_ns = shortcut->wait_ns;
        if (over(shortcut)) {
            result = 0;
            break;
        }
    }
    if (given_up)
        sl_capabilities_set(privileges, &privileges);
    return result;
}

long sl_shortcut_next(struct sl_shortcut *shortcut, void *request, int64_t wait_ns)
{
    return go_on(shortcut, request, 0, wait_ns);
}

long sl_shortcut_go_on(struct sl_shortcut *shortcut, void *request)
{
    return go_on(shortcut, request, 1, 0);
}

long sl_shortcut_exchange(struct sl_shortcut *shortcut, uint64_t id, int64_t value, int32_t error, uint32_t flags,
                          void *request, int64_t wait_ns)
{
    long result;
    do
        result = sl_notif_send(shortcut->listener, id, value, error, flags);
    while (result == -EINTR);
    if (result < 0 && result != -ENOENT) {
        memset(request, 0, SL_NOTIF_REQUEST_SIZE);
        return result;
    }
    return sl_shortcut_next(shortcut, request, wait_ns);
}
