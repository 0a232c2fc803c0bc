# SPDX-License-Identifier: Apache-2.0
"""Captures: the frames and DMA of any transport, written to pcapng and read back."""
