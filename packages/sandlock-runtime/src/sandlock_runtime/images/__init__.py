"""Root file systems from OCI images: read, checked, unpacked into a cache of this user's, and run in.

Names are loaded on first use: every branch asks for a hold, and few are over an image.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandlock_runtime.images.cache import CachedImage, list_images, remove_image, unpack_image
    from sandlock_runtime.images.errors import OciImageError
    from sandlock_runtime.images.hold import cache_folder, hold_root, is_image_root
    from sandlock_runtime.images.running import image_path, in_image

__all__ = [
    "CachedImage",
    "OciImageError",
    "cache_folder",
    "hold_root",
    "image_path",
    "in_image",
    "is_image_root",
    "list_images",
    "remove_image",
    "unpack_image",
]

_SOURCES = {
    "cache": "CachedImage list_images remove_image unpack_image",
    "errors": "OciImageError",
    "hold": "cache_folder hold_root is_image_root",
    "running": "image_path in_image",
}


if not TYPE_CHECKING:  # a type checker that saw this would take a misspelt name for a public one

    def __getattr__(name: str) -> object:
        """Load a public name on first use, and keep it."""
        import sys

        for module, names in _SOURCES.items():
            if name in names.split():
                __import__(f"{__name__}.{module}")
                value: object = getattr(sys.modules[f"{__name__}.{module}"], name)
                globals()[name] = value
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
