"""``python -m sdetr`` is the ``sdetr`` command."""

import sys

from sdetr.cli import main

sys.exit(main())
