"""`python -m godwit.runner`: what a Job's container runs."""

import sys

from godwit.runner.main import main

sys.exit(main())
