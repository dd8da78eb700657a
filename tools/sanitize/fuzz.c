/* For tools/sanitize.py: what serves notifications in C, below a kernel that answers as the fuzzer likes.
 *
 * Every system call of shortcut.c and what it uses comes here (calls.h). The input says what the kernel says: which
 * notifications there are, what is in the program's memory, which opens fail and what is found. Whatever that is, no byte
 * outside of a buffer is touched, which is the sanitizer's to see, and
 *   - each fd is closed once, and none is left open but the ones that are kept;
 *   - a notification is answered once, by whoever says that it was served, and not at all where it is returned;
 *   - the kernel is let make a call only where all that was judged is in registers;
 *   - memory is written only where the caller was seen to wait after the memory was opened.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "deputy.h"
#include "destinations.h"
#include "notif.h"
#include "raw.h"
#include "shortcut.h"

enum { ROOT = 3, UPPER, LOWER, LISTENER, FIRST, LAST = 200, ROUNDS = 12, AUDIT_ARCH = 0x1234 };

long sanitize_call(long number, long a, long b, long c, long d, long e, long f);
int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size);

static const unsigned char *input;
static size_t left;
static int fds[LAST], rounds, answered, waiting, memory_fd, seen_waiting;
static uint64_t current;
static int by_number; /* the call is one of an fd, without a path */
static struct sl_deputy deputy;
static struct sl_shortcut *shortcut;

#define MUST(holds) \
    do { \
        if (!(holds)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #holds); \
            abort(); \
        } \
    } while (0)

static unsigned next(void)
{
    return left ? left--, *input++ : 0;
}

static uint64_t any(void)
{
    static const uint64_t often[] = {0, 1, 2, 4, 28, 100, 4095, 4096, 16384, 16385, -100UL, ~0UL, 1UL << 31, 1UL << 63, 0x4000, 0x100};
    unsigned kind = next();
    return kind < 200 ? often[kind % (sizeof often / sizeof *often)] : (uint64_t)next() << 24 | next() << 8 | kind;
}

static void fill(void *to, size_t size)
{
    static const char text[] = "/./..//ab/nc\0u/l/..n\0ab";
    if (next() < 60) {
        memset(to, 'A', size); /* the name of a known destination, say */
        return;
    }
    size_t given = size > 64 ? next() % 64 : size; /* a page would take all of the input */
    memset(to, next() > 240 ? 'x' : 0, size);
    for (size_t index = 0; index < given; index++) {
        unsigned value = left ? next() : 'x';
        ((char *)to)[index] = value < sizeof text ? text[value] : (char)value;
    }
}

static long fails(void)
{
    static const int errors[] = {ENOENT, EACCES, ENOTDIR, ELOOP, EAGAIN, EINTR, EMFILE, EBADF, ESRCH, ENAMETOOLONG, EFAULT, EXDEV};
    unsigned kind = next();
    return kind < 170 ? 0 : -errors[kind % (sizeof errors / sizeof *errors)];
}

/* Another thread begins to change the branch, or what is judged by. */
static void disturb(void)
{
    unsigned kind = next();
    shortcut->branch.begun += kind > 250;
    shortcut->stale |= kind == 250;
}

static long opens(void)
{
    long error = fails();
    disturb();
    if (error)
        return error;
    for (int fd = FIRST; fd < LAST; fd++)
        if (!fds[fd])
            return fds[fd] = 1, fd;
    return -EMFILE;
}

static int is_open(long fd)
{
    return (fd >= ROOT && fd < FIRST) || (fd >= FIRST && fd < LAST && fds[fd]) || fd == -100;
}

static long receive(struct sl_notif_request *request)
{
    static const struct sl_notif_request none;
    MUST(!memcmp(request, &none, sizeof none));
    long error = fails();
    if (error)
        return error;
    request->id = ++current;
    request->pid = next() % 20;
    request->nr = (int)(next() % 10);
    by_number = request->nr == 8;
    request->arch = next() < 250 ? AUDIT_ARCH : 7;
    for (int index = 0; index < 6; index++)
        request->args[index] = any();
    answered = 0;
    waiting = 1;
    return 0;
}

static long listener(unsigned long request, void *data)
{
    uint64_t id;
    memcpy(&id, data, sizeof id);
    long error = fails();
    if ((request & 0xff) == 0)
        return receive(data);
    MUST(id == current);
    if ((request & 0xff) == 2) {
        seen_waiting = !error;
        return error;
    }
    MUST(waiting && !answered);
    uint32_t flags, source;
    if ((request & 0xff) == 3) { /* an fd for the caller, which is its answer */
        memcpy(&source, (char *)data + 12, sizeof source);
        MUST(source >= FIRST && source < LAST && fds[source]);
        answered = error == 0 || error == -ENOENT;
        return error;
    }
    MUST((request & 0xff) == 1);
    memcpy(&flags, (char *)data + 20, sizeof flags);
    MUST(!flags || by_number);
    answered = error == 0 || error == -ENOENT;
    return error;
}

static long identify(char *found)
{
    static const uint16_t modes[] = {0040755, 0100644, 0120777, 0100400, 0010644, 0020600};
    long error = fails();
    memset(found, 0, 256);
    uint16_t mode = modes[next() % 6];
    uint64_t inode = next() % 6, mount = next() % 2;
    uint32_t minor = next() % 2;
    memcpy(found + 28, &mode, sizeof mode);
    memcpy(found + 32, &inode, sizeof inode);
    memcpy(found + 140, &minor, sizeof minor);
    memcpy(found + 144, &mount, sizeof mount);
    return error;
}

static long read_link(char *to, size_t room)
{
    static const char *const texts[] = {"/upper", "/lower/ab", "/upper/n (deleted)", "/upper/ab/n", "/elsewhere", "/lowerer"};
    long error = fails();
    unsigned kind = next();
    if (error)
        return error;
    if (kind < 6) {
        size_t size = strlen(texts[kind]);
        memcpy(to, texts[kind], size);
        return (long)size;
    }
    size_t size = kind == 6 ? room : kind == 7 ? room - 1 : kind < 20 ? room - 10 * kind : kind;
    size = size > room ? room : size;
    fill(to, size);
    if (kind > 6 && kind < 20 && size > 7)
        memcpy(to, "/upper/", 7);
    return (long)size;
}

static long read_memory(const struct iovec *own, long count)
{
    long error = fails(), done = 0;
    int partly = next() > 200;
    for (long index = 0; !error && index < count; index++) {
        size_t size = partly ? own[index].iov_len / 2 : own[index].iov_len;
        fill(own[index].iov_base, size);
        done += (long)size;
    }
    return error ? error : done;
}

static long get_option(char *value, uint32_t *size)
{
    long error = fails();
    memset(value, 0, *size);
    *value = (char)(next() < 128 ? left % 2 : 6); /* of the family, the cookie; IPPROTO_TCP */
    if (next() > 230)
        *size /= 2;
    return error;
}

static long send_message(const struct msghdr *message)
{
    char copy[SL_DESTINATION_DATA + SL_DESTINATION_NAME];
    MUST(message->msg_iovlen == 1 && message->msg_iov->iov_len <= SL_DESTINATION_DATA);
    memcpy(copy, message->msg_iov->iov_base, message->msg_iov->iov_len);
    memcpy(copy + SL_DESTINATION_DATA, message->msg_name, message->msg_namelen);
    return fails();
}

static long begin_open(const char *path)
{
    long fd = opens();
    size_t size = strlen(path);
    if (fd >= 0 && !strcmp(path + size - 4, "/mem")) {
        memory_fd = (int)fd;
        seen_waiting = 0;
    }
    return fd;
}

long sanitize_call(long number, long a, long b, long c, long d, long e, long f)
{
    switch (number) {
    case __NR_ppoll:
        ((char *)a)[6] = rounds > 0 && next() < 250 ? 1 : 16;
        return rounds-- > 0;
    case __NR_ioctl:
        return listener((unsigned long)b, (void *)c);
    case __NR_openat:
        return begin_open((const char *)b);
    case 437: /* openat2 */
        MUST(is_open(a) && strlen((const char *)b) < 4096);
        return opens();
    case __NR_statx:
        MUST(is_open(a));
        return identify((char *)e);
    case __NR_newfstatat:
        fill((void *)c, 144);
        return fails();
    case __NR_fstatfs:
        memset((void *)b, next() < 200 ? 0 : 0xff, 120);
        return fails();
    case __NR_readlinkat:
        return read_link((char *)c, (size_t)d);
    case __NR_process_vm_readv:
        return read_memory((const struct iovec *)b, c);
    case __NR_pwrite64:
        MUST(a == memory_fd && seen_waiting && waiting && !answered);
        free(memcpy(malloc((size_t)c + 1), (void *)b, (size_t)c));
        return next() > 200 ? c / 2 : c;
    case __NR_close:
        MUST(a >= FIRST && a < LAST && fds[a] == 1);
        fds[a] = 0;
        return 0;
    case 434: case 438: /* pidfd_open, pidfd_getfd */
        return opens();
    case __NR_getsockopt:
        return get_option((char *)d, (uint32_t *)e);
    case __NR_capget:
        memset((void *)b, 0, 24);
        return fails();
    case __NR_sendmsg:
        return send_message((const struct msghdr *)b);
    case __NR_rt_sigprocmask:
        return 0;
    case __NR_fcntl: case __NR_setsockopt: case __NR_sendto: case __NR_capset: case 439: /* faccessat2 */
        return fails();
    default:
        MUST(!"a call that the fuzzer does not know");
        return f;
    }
}

int64_t sl_deputy_busy(struct sl_deputy *asked)
{
    (void)asked;
    return next() > 200;
}

/* It is done at once, or later. */
void sl_deputy_submit(struct sl_deputy *asked, uint32_t index)
{
    struct sl_deputy_slot *slot = &asked->slots[index];
    MUST(index >= SL_DEPUTY_SLOTS && waiting && !answered && slot->notification == current);
    MUST(fds[slot->lent - 1] == 1 && strlen(slot->buffer) < 32);
    fds[slot->lent - 1] = 0;
    slot->state = next() > 100;
    answered = 1;
}

static uint32_t write_names(uint32_t *at, char *text, uint32_t most)
{
    static const char *const all[] = {"..", "a", "ab", "abc", "b", "n", "nn", "x"}; /* in order */
    unsigned chosen = next(), used = 0, count = 0;
    for (unsigned index = 0; index < 8 && count < most; index++)
        if (chosen & 1U << index) {
            at[count++] = used;
            used += (unsigned)sprintf(text + used, "%s", all[index]) + 1;
        }
    return count;
}

static const void *write_marks(struct sl_walk_mark *marks, uint32_t *count)
{
    unsigned chosen = next();
    for (unsigned index = 0; index < 8; index++)
        if (chosen & 1U << index)
            marks[(*count)++] = (struct sl_walk_mark){index / 4, index % 4};
    return marks;
}

static void set_up(struct sl_destinations *known, struct sl_walk_mark (*marks)[8], char (*texts)[64])
{
    static uint64_t numbers[1 + 3 * 4];
    static const uint8_t sizes[] = {4, 28, 16, 0, 29, 40};
    static const struct sl_shortcut_row rows[] = {
        {0, SL_SHORTCUT_STAT, 0, 1, 2, 3, 0, 0}, {1, SL_SHORTCUT_STATX, 0, 1, 4, 2, 0, 0},
        {2, SL_SHORTCUT_ACCESS, 0, 1, 2, -1, 0, 0}, {3, SL_SHORTCUT_READLINK, 0, 1, 2, -1, 0, 0},
        {4, SL_SHORTCUT_OPEN, 0, 1, 2, 2, 0, 0}, {5, SL_SHORTCUT_CONNECT, -1, 0, 0, -1, 0, 0},
        {6, SL_SHORTCUT_SENDTO, -1, 0, 0, -1, 0, 0}, {7, SL_SHORTCUT_STAT, -1, 0, 1, -1, 0x100, 0},
        {8, SL_SHORTCUT_STAT, 0, -1, 1, -1, 0, 0},
    };
    static const struct sl_walk_mark prompt[] = {{0, 0}, {1, 0}}; /* all there are: the rest of the judgement is to be met */
    unsigned how = next();
    *shortcut = (struct sl_shortcut){.listener = LISTENER, .arch = AUDIT_ARCH, .root = ROOT, .relative = how & 1,
                                     .privileged = how >> 1 & 1, .left = next(), .row_count = 9, .deputy = &deputy,
                                     .destinations = known, .prompt = prompt, .prompt_count = 2};
    memcpy(shortcut->rows, rows, sizeof rows);
    shortcut->marks = write_marks(marks[0], &shortcut->mark_count);
    shortcut->closed = write_marks(marks[1], &shortcut->closed_count);
    shortcut->denied = write_marks(marks[2], &shortcut->denied_count);
    shortcut->fence = write_marks(marks[3], &shortcut->fence_count);
    shortcut->names = texts[0];
    shortcut->name_count = write_names(shortcut->name_at, texts[0], 8);
    shortcut->branch = (struct sl_branch){.upper = how & 4 ? UPPER : -1, .lower = how & 8 ? LOWER : -1, .whole = how >> 4 & 1,
                                          .starts = how >> 5 & 1, .lower_device = how >> 6 & 1, .begun = how >> 7,
                                          .root = {next() % 2, next() % 4}, .upper_path = "/upper", .lower_path = "/lower",
                                          .upper_length = 6, .lower_length = 6, .folder_length = 6, .names = texts[1], .numbers = numbers};
    memset(numbers, 0, sizeof numbers);
    numbers[0] = 3;
    for (unsigned count = next() % 8; count; count--)
        sl_numbers_put(numbers, next() % 6, next() % 3, next() % 3);
    shortcut->branch.name_count = write_names(shortcut->branch.name_at, texts[1], 8);
    for (unsigned count = next() % 64; count; count--) {
        char name[40], packed[40];
        fill(name, sizeof name);
        fill(packed, sizeof packed);
        sl_destinations_add(known, next() % 2, (int)(next() % 2), name, sizes[next() % 6], packed, sizes[next() % 6]);
    }
}

int LLVMFuzzerTestOneInput(const unsigned char *bytes, size_t size)
{
    static struct sl_destinations known;
    shortcut = malloc(sizeof *shortcut); /* with borders of its own */
    struct sl_notif_request *request = malloc(sizeof *request);
    struct sl_walk_mark marks[4][8];
    char texts[2][64];
    input = bytes;
    left = size;
    rounds = ROUNDS;
    waiting = answered = 0;
    memset(fds, 0, sizeof fds);
    memset(&known, 0, sizeof known);
    memset(&deputy, 0, sizeof deputy);
    set_up(&known, marks, texts);
    long result = 0;
    while (left && rounds > 0) {
        int answers = result == 1 && next() < 128;
        waiting = answers;
        result = answers ? sl_shortcut_exchange(shortcut, current, 0, 0, 0, request, 0) : sl_shortcut_next(shortcut, request, 0);
        shortcut->left += result == 0;
        shortcut->branch.ended = shortcut->branch.begun;
        if (result == 1)
            MUST(waiting && !answered && request->id == current);
        else if (waiting && result == 0 && !answers)
            MUST(answered);
    }
    sl_destinations_close(&known);
    for (int fd = FIRST; fd < LAST; fd++)
        MUST(!fds[fd]);
    free(shortcut);
    free(request);
    return 0;
}
