# SPDX-License-Identifier: Apache-2.0
"""The `i2o` command: one module per sub-command, and what they share."""
