# SPDX-License-Identifier: Apache-2.0
"""An IOP made of software: message unit, executive, device drivers (DDMs) and fault plans.

`soft_iop.SoftIop` is the IOP, bound to a `DeviceUnit` of `i2o.transport`; `emu_port` is the
backend `emu:` around it. A new device class is a subclass of `ddm.base.Ddm` in a file of its own.
"""
