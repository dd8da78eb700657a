"""What the presets grant. `-` in front of a path means that it may be missing."""

from __future__ import annotations

__all__ = ["PRESETS"]

# Where programs and their libraries live. Everything here is world-readable by its nature. /opt is not in the list:
# it is also where services keep their configuration; a program that is run from there brings its own folder.
_PROGRAMS = (
    "/usr",
    "-/bin",
    "-/sbin",
    "-/lib",
    "-/lib32",
    "-/lib64",
    "-/libx32",
    "-/nix/store",
    "-/gnu/store",
    "-${PROGRAM}",
    "-${CWD}",
)

# The few files below /etc that programs read to work; never /etc itself, which also holds keys and hashes.
_ETC = (
    # the loader
    "-/etc/ld.so.cache", "-/etc/ld.so.conf", "-/etc/ld.so.conf.d", "-/etc/ld.so.preload", "-/etc/ld-musl-x86_64.path",
    "-/etc/alternatives",
    # certificates and the defaults of TLS libraries, without any private key
    "-/etc/ssl/certs", "-/etc/ssl/cert.pem", "-/etc/ssl/openssl.cnf", "-/etc/ca-certificates",
    "-/etc/ca-certificates.conf", "-/etc/pki/tls/certs", "-/etc/pki/tls/cert.pem", "-/etc/pki/tls/openssl.cnf",
    "-/etc/pki/ca-trust/extracted", "-/etc/crypto-policies", "-/etc/gnutls/config",
    # language and time
    "-/etc/locale.alias", "-/etc/locale.conf", "-/etc/default/locale", "-/etc/localtime", "-/etc/timezone",
    # names of users, hosts, services and types
    "-/etc/passwd", "-/etc/group", "-/etc/nsswitch.conf", "-/etc/hosts", "-/etc/host.conf", "-/etc/gai.conf",
    "-/etc/resolv.conf", "-/etc/services", "-/etc/protocols", "-/etc/networks", "-/etc/rpc", "-/etc/mime.types",
    "-/etc/magic", "-/etc/os-release", "-/etc/debian_version", "-/etc/lsb-release",
    # shells, terminals, fonts
    "-/etc/profile", "-/etc/profile.d", "-/etc/bash.bashrc", "-/etc/bashrc", "-/etc/inputrc", "-/etc/shells",
    "-/etc/terminfo", "-/etc/fonts",
    # interpreters whose own files a distribution keeps here
    "-/etc/perl", "-/etc/python3", "-/etc/python3.9", "-/etc/python3.10", "-/etc/python3.11", "-/etc/python3.12",
    "-/etc/python3.13", "-/etc/python3.14", "-/etc/python3.15",
    # git ends with an error where this file is there and cannot be read
    "-/etc/gitconfig",
)  # fmt: skip

# Files of /proc and /sys that say how big the machine is, and nothing of who uses it. /proc itself would show foreign
# processes, and a Landlock rule cannot follow /proc/self: it would be fixed to whoever made the rule.
_MACHINE = (
    "-/proc/cpuinfo",
    "-/proc/meminfo",
    "-/proc/filesystems",
    "-/proc/sys/kernel/cap_last_cap",
    "-/proc/sys/kernel/ngroups_max",
    "-/proc/sys/kernel/osrelease",
    "-/proc/sys/kernel/pid_max",
    "-/proc/sys/kernel/threads-max",
    "-/proc/sys/vm/max_map_count",
    "-/proc/sys/vm/overcommit_memory",
    "-/proc/sys/fs/pipe-max-size",
    "-/sys/devices/system/cpu/online",
    "-/sys/devices/system/cpu/possible",
    "-/sys/kernel/mm/transparent_hugepage/enabled",
    "-/sys/kernel/mm/transparent_hugepage/hpage_pmd_size",
)

_RUST = (
    "-~/.cargo/bin", "-~/.cargo/registry", "-~/.cargo/git", "-~/.cargo/config.toml", "-~/.cargo/env",
    "-~/.rustup/toolchains", "-~/.rustup/settings.toml", "-~/.rustup/update-hashes",
)  # fmt: skip
_DEVICES_READ = ("-/dev/random", "-/dev/urandom")
_DEVICES_WRITTEN = ("-/dev/null", "-/dev/zero", "-/dev/full")

_SYSTEM = (*_PROGRAMS, *_ETC, *_MACHINE, *_DEVICES_READ)

# name -> fields of the policy
PRESETS: dict[str, dict[str, object]] = {
    "none": {},
    "default": {"fs_readable": _SYSTEM, "fs_writable": _DEVICES_WRITTEN, "private_tmp": True},
    "python": {
        "fs_readable": (
            *_SYSTEM,
            "-${VIRTUAL_ENV}", "-${CONDA_PREFIX}", "-~/.pyenv/versions", "-~/.local/share/uv/python",
            "-~/.local/share/uv/tools", "-~/.local/lib",
        ),
        "fs_writable": _DEVICES_WRITTEN,
        "private_tmp": True,
        # The current directory is read-only: trying to leave compiled modules there would only cost time.
        "env": {"VIRTUAL_ENV": None, "CONDA_PREFIX": None, "PYTHONDONTWRITEBYTECODE": "1",
                "PIP_CACHE_DIR": "${TMPDIR}/pip"},
    },
    "node": {
        # os.cpus() throws without /proc/stat, and many tools call it; it tells when the machine was started.
        "fs_readable": (*_SYSTEM, "-/proc/stat", "-~/.nvm/versions", "-~/.volta/tools", "-~/.local/share/fnm",
                        "-~/.fnm/node-versions", "-/etc/npmrc"),
        "fs_writable": _DEVICES_WRITTEN,
        "private_tmp": True,
        # npm writes to its cache whatever it does, and the home is not to be written.
        "env": {"NODE_ENV": None, "npm_config_cache": "${TMPDIR}/npm"},
    },
    "build": {
        # Compilers and make, working in the current directory, which is theirs to change.
        "fs_readable": (
            *_SYSTEM,
            "-/proc/stat", "-/proc/loadavg", "-~/.gitconfig", "-~/.config/git", "-~/.cargo/bin",
            "-~/.rustup/toolchains", "-~/.rustup/settings.toml", "-~/go/pkg/mod", "-/etc/java-8-openjdk",
            "-/etc/java-11-openjdk", "-/etc/java-17-openjdk", "-/etc/java-21-openjdk", "-/etc/java-25-openjdk",
        ),
        "fs_writable": (*_DEVICES_WRITTEN, "-${CWD}"),
        "private_tmp": True,
        # go refuses to build without a cache that it can write, and the home is not to be written.
        "env": {"CC": None, "CXX": None, "CFLAGS": None, "CXXFLAGS": None, "LDFLAGS": None, "MAKEFLAGS": None,
                "GOCACHE": "${TMPDIR}/go-build", "GOFLAGS": None},
    },
    "rust": {
        # cargo without a network: what was fetched is read, the target folder is the project's. No credentials.toml.
        "fs_readable": (*_SYSTEM, "-/proc/stat", "-/proc/loadavg", *_RUST, "-~/.gitconfig", "-~/.config/git"),
        "fs_writable": (*_DEVICES_WRITTEN, "-${CWD}"),
        "private_tmp": True,
        "env": {"CARGO_NET_OFFLINE": "true", "CARGO_HOME": None, "RUSTUP_HOME": None, "RUSTUP_TOOLCHAIN": None,
                "RUSTFLAGS": None, "CARGO_TARGET_DIR": None, "CC": None, "CFLAGS": None},
    },
    "git": {
        # A work tree that is committed when the program succeeded, but for what git or a shell would run later: hooks
        # and configuration, of nested repositories too. With such a change nothing is applied; the branch waits.
        "fs_readable": (*_SYSTEM, "-~/.gitconfig", "-~/.config/git"),
        "fs_writable": _DEVICES_WRITTEN,
        "workdir": "${CWD}",
        "private_tmp": True,
        "env": {"GIT_AUTHOR_NAME": None, "GIT_AUTHOR_EMAIL": None, "GIT_AUTHOR_DATE": None, "GIT_COMMITTER_NAME": None,
                "GIT_COMMITTER_EMAIL": None, "GIT_COMMITTER_DATE": None},
    },
    "agent": {
        # What writes and runs programs of its own: a view of the project whose changes wait for a decision, a home of
        # its own, and the caches and tool chains of the user's to read. Who may be reached is for the caller to name.
        "fs_readable": (
            *_SYSTEM,
            "-/proc/stat", "-/proc/loadavg", "-${VIRTUAL_ENV}", *_RUST, "-~/go/pkg/mod", "-~/.nvm/versions",
            "-~/.volta/tools", "-~/.local/share/fnm", "-~/.fnm/node-versions", "-~/.pyenv/versions",
            "-~/.local/share/uv/python", "-~/.local/lib", "-~/.cache/pip", "-~/.npm/_cacache",
        ),
        "fs_writable": _DEVICES_WRITTEN,
        "workdir": "${CWD}",
        "on_exit": "keep",
        "on_error": "keep",
        "private_tmp": True,
        "env": {
            "HOME": "${TMPDIR}", "VIRTUAL_ENV": None, "RUSTUP_HOME": "${HOME}/.rustup",
            "GOMODCACHE": "${HOME}/go/pkg/mod", "PYTHONDONTWRITEBYTECODE": "1", "GIT_CONFIG_NOSYSTEM": "1",
        },
    },
}  # fmt: skip
