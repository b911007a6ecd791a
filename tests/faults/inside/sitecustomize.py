"""First on PYTHONPATH, Python imports this when it starts: the process may then do something to itself (dying.py)."""

import os
import sys

if "VITFLOW_TEST_FAULT" in os.environ:
    from dying import as_asked

    as_asked(os.environ["VITFLOW_TEST_FAULT"], sys.orig_argv)
