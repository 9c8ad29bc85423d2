"""`python -m dynamo`: the same as the command `dynamo`."""

import sys

from dynamo.cli import main

sys.exit(main())
