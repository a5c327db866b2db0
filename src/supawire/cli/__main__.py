import sys

from supawire.cli import main

sys.exit(main())
