"""Where the sample application's migrations are: one folder, `migrations/` of the project."""

from pathlib import Path

_PACKAGED = Path(__file__).parent / "migrations"
"""Where an installed package has them; its build takes them from the project's folder."""
_CHECKOUT = Path(__file__).parents[3] / "migrations"


def sample_migrations() -> Path:
    """The folder, in the installed package or in the checkout that this runs from."""
    return _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT


def checkout() -> Path | None:
    """The project's folder where this runs from a checkout, else None."""
    return None if _PACKAGED.is_dir() or not _CHECKOUT.is_dir() else _CHECKOUT.parent
