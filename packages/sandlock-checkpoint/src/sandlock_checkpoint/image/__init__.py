"""The image of a checkpoint on disk: save, load, look at, upgrade."""

from sandlock_checkpoint.image.inspect import show, verify
from sandlock_checkpoint.image.load import load
from sandlock_checkpoint.image.save import save
from sandlock_checkpoint.image.upgrade import upgrade

__all__ = ["load", "save", "show", "upgrade", "verify"]
