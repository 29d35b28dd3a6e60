"""`python -m godwit.runner`: what a Job's container runs."""

import contextlib
import gc
import os
import sys

# None is used, and to look for some is to read what every installed distribution says of itself.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
# What is imported stays; looking through it for garbage, again and again, costs a tenth of the start.
gc.disable()
from godwit.runner.main import main  # noqa: E402

gc.freeze()
gc.enable()
status = main()
with contextlib.suppress(OSError, ValueError):  # whoever read the log may be gone
    sys.stdout.flush()
    sys.stderr.flush()
# The outcome is written, the connections are closed. To take apart what was imported would cost a fifth of
# the time that the process needs, while the operator waits for its end.
os._exit(status)
