"""`python -m xingaug`, which `torchrun -m xingaug train ...` needs."""

import sys

from xingaug.cli import main

sys.exit(main())
