"""Entry point of `python -m xingaug` and of `torchrun -m xingaug train ...`."""

import sys

from xingaug.cli import main

sys.exit(main())
