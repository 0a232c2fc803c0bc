# SPDX-License-Identifier: Apache-2.0
"""IOPs on a real PCI bus: the backends `sysfs:`, `uio:`, `vfio:`, `devmem:` and `pci:`."""
