# SPDX-License-Identifier: Apache-2.0
"""The version, as a literal, so that nothing has to be imported to read it."""

__version__ = "0.1.0"
