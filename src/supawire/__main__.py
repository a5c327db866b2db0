"""`python -m supawire`: the command line, for shells whose PATH lacks the script `supawire`."""

import sys

from supawire.cli import main

sys.exit(main())
