"""``python -m edgefer``."""

import sys

from edgefer.cli import main

if __name__ == "__main__":
    sys.exit(main())
