"""The files of /proc/PID: pure parsers (bytes in, frozen values out) and readers."""

from sandlock_sys.proc.fds import FdInfo, FdKind, FdLink, parse_fd_link, parse_fdinfo
from sandlock_sys.proc.maps import Mapping, parse_maps
from sandlock_sys.proc.pagemap import Page, PageRun, find_runs, page_at
from sandlock_sys.proc.readers import (
    list_fds,
    list_tasks,
    open_pagemap,
    read_children,
    read_fd_link,
    read_fdinfo,
    read_maps,
    read_pagemap,
    read_smaps,
    read_stat,
    read_status,
)
from sandlock_sys.proc.smaps import MappingUse, parse_smaps
from sandlock_sys.proc.stat import Stat, parse_stat
from sandlock_sys.proc.status import Ids, Status, parse_status
from sandlock_sys.proc.tasks import parse_children, parse_task_names

__all__ = [
    "FdInfo",
    "FdKind",
    "FdLink",
    "Ids",
    "Mapping",
    "MappingUse",
    "Page",
    "PageRun",
    "Stat",
    "Status",
    "find_runs",
    "list_fds",
    "list_tasks",
    "open_pagemap",
    "page_at",
    "parse_children",
    "parse_fd_link",
    "parse_fdinfo",
    "parse_maps",
    "parse_smaps",
    "parse_stat",
    "parse_status",
    "parse_task_names",
    "read_children",
    "read_fd_link",
    "read_fdinfo",
    "read_maps",
    "read_pagemap",
    "read_smaps",
    "read_stat",
    "read_status",
]
