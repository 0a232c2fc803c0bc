# SPDX-License-Identifier: Apache-2.0
"""SCSI logical units over a `BlockStore`: commands and sense data, and nothing of I2O."""
