"""`python -m coordkit` is `coordkit`."""

from __future__ import annotations

import sys

from coordkit.cli.main import main

sys.exit(main())
