# SPDX-License-Identifier: Apache-2.0
"""The devices of a software IOP: `base` answers what every TID does, one module per class."""
