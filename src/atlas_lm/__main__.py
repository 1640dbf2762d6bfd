"""``python -m atlas_lm`` is ``atlas-lm``."""

import sys

from atlas_lm.cli import main

sys.exit(main())
