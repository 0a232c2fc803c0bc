# SPDX-License-Identifier: Apache-2.0
"""`python -m i2o`: the same as the `i2o` command."""

import sys

from i2o.tools.cli import main

if __name__ == "__main__":
    sys.exit(main())
