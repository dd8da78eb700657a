/* Paths in a copy-on-write folder, looked up without the interpreter where that needs no thought.
 *
 * A name of the upper layer hides the lower one's, and its directories lie in directories of the upper layer. So a path
 * that is there, whole, in the upper layer is that; one that ends in the upper layer with "no such name" is what the
 * lower layer says, unless a directory on the way hides it: those have names that are not served. Whatever else the
 * kernel answers (a whiteout or a link in the way, no right to search) is not told apart here. The judgement is that of
 * sandlock_cow.tree and sandlock_notif.fs.branch_walk, and has to stay the same.
 */
#include "branch.h"

#include <errno.h>
#include <string.h>

#include "raw.h"
#include "text.h"

enum {
    LONGEST = 4096,         /* PATH_MAX */
    CWD = -100,             /* AT_FDCWD, linux/fcntl.h */
    FOLDER = 0040000, FILE_ = 0100000, LINK = 0120000, TYPE = 0170000, /* linux/stat.h */
    MARKED = 0400,          /* the mode of a whiteout that is no device: sandlock_cow.overlay */
};
#define FOREIGN (1ULL << 62)

static void drop(struct sl_walk *found)
{
    if (found->object >= 0)
        RAW(__NR_close, found->object);
    found->object = -1;
}

int sl_name_in(const struct sl_names *names, const char *component, size_t size)
{
    uint32_t low = 0, high = names->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const char *name = names->text + names->at[middle];
        int order = strncmp(name, component, size);
        if (!order)
            order = name[size] != 0;
        if (!order)
            return 1;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

long sl_name_first(const struct sl_names *names, const char *path, size_t *end)
{
    size_t at = 0;
    while (path[at]) {
        size_t size = strcspn(path + at, "/");
        if (size && sl_name_in(names, path + at, size)) {
            *end = at + size;
            return (long)at;
        }
        at += size;
        at += path[at] == '/';
    }
    return -1;
}

int64_t sl_branch_begin(const struct sl_branch *branch)
{
    uint64_t ended = __atomic_load_n(&branch->ended, __ATOMIC_ACQUIRE);
    uint64_t begun = __atomic_load_n(&branch->begun, __ATOMIC_ACQUIRE);
    return begun == ended ? (int64_t)begun : -1;
}

int sl_branch_settled(const struct sl_branch *branch, int64_t state)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return (int64_t)__atomic_load_n(&branch->begun, __ATOMIC_ACQUIRE) == state;
}

const char *sl_branch_enter(const struct sl_branch *branch, int start, const char *path, const struct sl_names *names,
                            const struct sl_walk_mark *marks, uint32_t count)
{
    char above[LONGEST];
    size_t end;
    struct sl_walk found;
    if (sl_name_first(names, path, &end) < 0 || end >= sizeof above)
        return NULL;
    memcpy(above, path, end);
    above[end] = 0;
    sl_find(start, above, SL_WALK_CACHED, marks, count, &found);
    drop(&found);
    int there = found.outcome == SL_WALK_MARK && found.device == branch->root.device && found.inode == branch->root.inode;
    return there ? path + end : NULL;
}

static const char *below(const char *text, const char *folder, uint32_t length)
{
    return strncmp(text, folder, length) == 0 && (text[length] == '/' || !text[length]) ? text + length : NULL;
}

/* What the kernel calls the object of an fd, in LONGEST bytes; its length, or nothing. */
static long path_of(int fd, char *text)
{
    char link[48];
    sl_put_number(sl_put(link, "/proc/self/fd/"), (uint32_t)fd);
    long size = RAW(__NR_readlinkat, CWD, link, text, LONGEST);
    if (size <= 0 || size >= LONGEST)
        return 0;
    text[size] = 0;
    return size;
}

int sl_branch_from(const struct sl_branch *branch, int start, const char *path, char *whole, size_t room)
{
    static const char gone[] = " (deleted)";
    const long tail = sizeof gone - 1;
    char text[LONGEST];
    struct sl_walk found;
    long size = path_of(start, text);
    if (!size)
        return -1;
    const char *rest = below(text, branch->upper_path, branch->upper_length);
    if (!rest)
        rest = below(text, branch->lower_path, branch->lower_length);
    if (!rest) /* above a removed directory is the storage */
        return below(text, branch->upper_path, branch->folder_length) ? -1 : 0;
    if (!branch->starts || (size >= tail && strcmp(text + size - tail, gone) == 0))
        return -1;
    sl_look(start, NULL, 0, &found);
    if (found.outcome != SL_WALK_END || (found.mode & TYPE) != FOLDER || strlen(rest) + strlen(path) + 2 > room)
        return -1;
    sl_put(sl_put(sl_put(whole, rest), "/"), path);
    return 1;
}

/* What only the branch has keeps its number, marked where it could be that of a file of the real tree; the judgement is
 * that of sandlock_cow.identities, and has to stay the same. */
int sl_branch_show(const struct sl_branch *branch, uint64_t *device, uint64_t *inode)
{
    if (*device != branch->upper_device)
        return 0;
    const struct sl_number *number = sl_numbers_get(__atomic_load_n(&branch->numbers, __ATOMIC_ACQUIRE), *inode);
    if (number) {
        *device = number->shown_device;
        *inode = number->shown_inode;
        return 1;
    }
    if (branch->upper_device == branch->lower_device)
        return 0;
    *device = branch->lower_device;
    *inode |= FOREIGN;
    return 1;
}

int sl_branch_holds(const struct sl_branch *branch, int fd)
{
    char text[LONGEST];
    return path_of(fd, text) > 0 && below(text, branch->upper_path, branch->folder_length);
}

static int served(const struct sl_walk *found, uint64_t device)
{
    uint32_t type = found->mode & TYPE;
    if (found->outcome != SL_WALK_END || found->device != device)
        return 0; /* marked, or of another file system, at which somebody has to look first */
    return type == FOLDER || type == LINK || type == FILE_;
}

int sl_branch_find(const struct sl_branch *branch, const char *path, uint32_t flags, const struct sl_walk_mark *marks,
                   uint32_t count, struct sl_walk *found)
{
    size_t end;
    struct sl_names names = {branch->names, branch->name_at, branch->name_count};
    if (sl_name_first(&names, path, &end) >= 0)
        return 0;
    flags &= ~(uint32_t)SL_WALK_CACHED; /* the interpreter would wait for these file systems as well */
    flags |= SL_WALK_BENEATH;           /* above a layer is the storage, whatever the names say of `..` */
    sl_find(branch->upper, path, flags, marks, count, found);
    if (found->outcome != SL_WALK_ERROR) {
        int whiteout = (found->mode & (TYPE | 07777)) == (FILE_ | MARKED); /* it may be one */
        if (!whiteout && served(found, branch->upper_device))
            return 1;
        drop(found);
        return 0;
    }
    if (found->error != ENOENT || branch->lower < 0)
        return 0;
    sl_find(branch->lower, path, flags, marks, count, found);
    if (found->outcome == SL_WALK_ERROR)
        return found->error == ENOENT;
    if (served(found, branch->lower_device))
        return 1;
    drop(found);
    return 0;
}
