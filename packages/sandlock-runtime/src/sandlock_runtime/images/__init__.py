"""Root file systems from OCI images: read, checked, unpacked into a cache of this user's, and run in.

Import from the submodules: every branch asks for a hold (`hold`), and few are over an image.
"""
