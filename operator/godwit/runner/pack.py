"""Packing a migration folder into ConfigMaps: the command line comes to the engine by way of the runner."""

from godwit.engine.errors import StepFailed
from godwit.engine.pack import pack

__all__ = ["StepFailed", "pack"]
