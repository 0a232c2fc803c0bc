# SPDX-License-Identifier: Apache-2.0
"""An IOP at the other end of any endpoint: frames, replies, interrupts and DMA as messages."""
