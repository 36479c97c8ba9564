"""`python -m gossamer` is the command `gossamer`."""

from __future__ import annotations

import sys

from gossamer.cli import main

sys.exit(main())
