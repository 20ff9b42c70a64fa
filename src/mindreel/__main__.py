import sys

from mindreel.cli import main

sys.exit(main())
