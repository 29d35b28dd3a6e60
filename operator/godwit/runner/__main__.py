"""`python -m godwit.runner`: what a Job's container runs."""

import gc
import sys

# What is imported stays; looking through it for garbage, again and again, costs a tenth of the start.
gc.disable()
from godwit.runner.main import main  # noqa: E402

gc.enable()
sys.exit(main())
