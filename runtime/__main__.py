"""`python -m limner.runtime` is the command `limner`."""

import sys

from limner.runtime.cli import main

sys.exit(main())
