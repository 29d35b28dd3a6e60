"""Observe, decide, report, act, and again."""
