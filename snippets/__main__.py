"""`python -m snippets`: copy snippets into a project and keep them up to date."""

import sys

from snippets._cli.commands import main

sys.exit(main())
