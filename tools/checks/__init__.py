# SPDX-License-Identifier: Apache-2.0
"""What `i2o doctor` looks at: one module per subject, each with a table of checks."""
