"""``python -m appswitch.cli``."""

import sys

from appswitch.cli import main

sys.exit(main())
