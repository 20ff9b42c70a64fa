"""`python -m mindreel`: the command line."""

import sys

from mindreel.cli import main

sys.exit(main())
