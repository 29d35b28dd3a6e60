"""Starts step processes quickly: a process that has imported the runner already, and forks for each step.

Each line on standard input is a JSON object: the step's environment, and the file for its log. Answered by
two lines: the child's process id, then its wait status.
"""

import json
import os
import sys

import pglast.parser  # noqa: F401

import godwit.engine.apply
import godwit.engine.revert
import godwit.engine.verify
import godwit.runner.verbs  # noqa: F401
from godwit.runner.main import main


def run(order: dict) -> int:
    """In the child: the runner's own entry, in the environment and with the log that were asked for."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(log, number)
    os.environ.clear()
    os.environ.update(order["environ"])
    status = main(os.environ)
    sys.stdout.flush()
    return status


def serve() -> None:
    """One order after the other, until standard input ends."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(run(json.loads(line)))
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    print("ready", flush=True)
    serve()
