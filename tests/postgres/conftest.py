"""What tests of the engine's verbs share."""

from project import project

__all__ = ["project"]
