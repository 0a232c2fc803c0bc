# SPDX-License-Identifier: Apache-2.0
"""Processes of one machine over shared memory: IOPs (`port`, `server`) and frames (`carrier`).

`docs/shared-memory.md` says what lies where in the memory and how the two sides find one another.
"""
