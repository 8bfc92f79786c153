"""``python -m reliq`` is the command ``reliq``."""

import sys

from reliq.cli import main

sys.exit(main())
