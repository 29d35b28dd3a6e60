"""Faults on purpose: tests make a step die, hang, lose its outcome or come late at a named point.

Inert unless GODWIT_FAULT is set, and that is refused unless GODWIT_FAULT_INJECTION=1 stands beside it. The
form is `point:action[:n]`, several joined by commas:

- `kill[:n]`: SIGKILL to this process, the nth time that the point is reached (default: the first);
- `hang[:n]`: never go on, until killed;
- `lose[:n]`: finish, but write no outcome;
- `delay:seconds`: wait each time, then go on.
"""

import os
import signal
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

FAULT_VAR = "GODWIT_FAULT"
INJECTION_VAR = "GODWIT_FAULT_INJECTION"
_ACTIONS = ("kill", "hang", "lose", "delay")


@dataclass(frozen=True)
class _Fault:
    point: str
    action: str
    number: float


class Faults:
    """The faults of one process. Raises ValueError when they are not understood or not allowed."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        text = environ.get(FAULT_VAR, "")
        if text and environ.get(INJECTION_VAR) != "1":
            raise ValueError(f"{FAULT_VAR} is set, but faults need {INJECTION_VAR}=1 as well")
        self._faults = [_parse(part) for part in text.split(",") if part]
        self._seen: Counter[str] = Counter()
        self.lost = False
        """Whether the outcome must not be written."""

    def point(self, name: str) -> None:
        """Do what was asked for at the point *name*."""
        if not self._faults:
            return
        self._seen[name] += 1
        for fault in self._faults:
            if fault.point != name:
                continue
            if fault.action == "delay":
                threading.Event().wait(fault.number)
            elif fault.number == self._seen[name]:
                self._strike(fault)

    def _strike(self, fault: _Fault) -> None:
        if fault.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.action == "hang":
            threading.Event().wait()
        else:
            self.lost = True


def _parse(text: str) -> _Fault:
    point, _, rest = text.partition(":")
    action, _, number = rest.partition(":")
    if not point or action not in _ACTIONS or (action == "delay" and not number):
        raise ValueError(f"{FAULT_VAR} is not understood: {text!r}; the form is point:action[:n]")
    return _Fault(point, action, float(number or 1))
