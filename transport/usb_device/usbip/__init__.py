# SPDX-License-Identifier: Apache-2.0
"""The server's side of USB/IP: whoever imports a device gets it on a port of its own kernel."""
