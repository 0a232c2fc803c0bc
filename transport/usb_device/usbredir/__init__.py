# SPDX-License-Identifier: Apache-2.0
"""The host's side of usb-redir: QEMU's `usb-redir` puts the device on a bus of a guest."""
