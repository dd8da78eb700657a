from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sandlock_sys.errors import SyscallError
from sandlock_sys.syncfs import syncfs


def test_it_takes_any_file_of_the_file_system_but_no_path_only_fd(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    syncfs(folder)
    os.close(folder)
    path_only = os.open(tmp_path, os.O_PATH)
    with pytest.raises(SyscallError) as caught:
        syncfs(path_only)
    os.close(path_only)
    assert (caught.value.call, caught.value.errno) == ("syncfs", errno.EBADF)
