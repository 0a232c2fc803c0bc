# SPDX-License-Identifier: Apache-2.0
"""What a block device knows about itself, and the parameter groups that tell it."""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import Any, Final

from i2o.frames import block_storage_groups as groups
from i2o.frames.block_storage import BsaDetailedStatus, BsaPowerOperation
from i2o.frames.block_storage_groups import (
    BsaCapability,
    BsaDeviceType,
    BsaReadPolicy,
    BsaRedundancy,
    BsaState,
    BsaWritePolicy,
)
from i2o.iop_emulator.block_store import BlockStore
from i2o.iop_emulator.parameter_groups import Group, Row, ScalarGroup, TableGroup

ERRORS_KEPT: Final = 64
_FIRST_POWERED_DOWN: Final = BsaPowerOperation.QUIESCE_DEVICE.value
_RANGE_BITS: Final = (12, 16, 20)  # transfers below 4 KiB, 64 KiB, 1 MiB, and the rest
_DEFAULT_CONTROL: Final[dict[str, int]] = {
    "auto_reassign": 0,
    "retry_attempts": 0,
    "expected_timeout": 60_000_000,
    "rwv_timeout": 1_000_000,
    "rwv_timeout_base": 10_000_000,
    "timeout_base": 60_000_000,
    "ordered_request_depth": 1,
    "atomic_write_size": 0,
}
_CONTROL_WRITEABLE: Final = (
    "auto_reassign",
    "reassign_tolerance",
    "retry_attempts",
    "reserved1",
    "reassign_size",
    "expected_timeout",
    "rwv_timeout",
    "rwv_timeout_base",
    "timeout_base",
)


class BlockState:
    """State, settings and statistics of one block device.

    Args:
        store: its blocks.

    Attributes:
        size: bytes of the medium.
        block_mask: block size less one.
        power_state: the last power operation.
        is_changed: there is another medium, which the host has not taken note of yet.
        is_loaded: the medium is in.
        is_locked: the medium must stay in.
        is_removable: the medium can be taken out.
        is_up: the device can move data now.
        loads: how often a medium was loaded or unloaded.
    """

    __slots__ = (
        "_errors",
        "_next_error",
        "block_mask",
        "control",
        "is_changed",
        "is_loaded",
        "is_locked",
        "is_removable",
        "is_up",
        "loads",
        "power",
        "power_state",
        "read_sizes",
        "size",
        "store",
        "write_policy",
        "write_sizes",
    )

    def __init__(self, store: BlockStore) -> None:
        self.is_removable, self.is_loaded, self.loads = store.removable, False, 0
        self.put_in(store)
        self.read_sizes = [0] * 34
        self.write_sizes = [0] * 34
        self._errors: deque[dict[str, int]] = deque(maxlen=ERRORS_KEPT)
        self._next_error = 0
        self.reset()

    def reset(self) -> None:
        """Go back to the settings of power-on; statistics and the error log stay."""
        self.power_state = BsaPowerOperation.POWER_UP_LOAD.value
        self.is_changed = self.is_locked = False
        self.load()
        self.write_policy = BsaWritePolicy.WRITE_TO_CACHE.value
        self.control = dict(_DEFAULT_CONTROL)
        self.power = {"powerdown_timeout": 0, "on_access": 1}

    def put_in(self, store: BlockStore) -> None:
        """Have other blocks, of another medium or of another size."""
        self.store = store
        self.size, self.block_mask = store.size, store.block_size - 1

    def load(self, is_loaded: bool = True) -> None:
        """Load the medium if there is one, or unload it."""
        before, self.is_loaded = self.is_loaded, is_loaded and self.size > 0
        self.loads += before != self.is_loaded
        self._look()

    def change(self, is_changed: bool) -> None:
        """Have the host take note of another medium before anything else, or end that."""
        self.is_changed = is_changed
        self._look()

    def set_power(self, operation: int) -> None:
        """Go to the power state that an operation leads to."""
        self.power_state = operation
        self._look()

    def _look(self) -> None:
        is_awake = self.power_state < _FIRST_POWERED_DOWN
        self.is_up = self.is_loaded and is_awake and not self.is_changed

    @property
    def obstacle(self) -> int:
        """Why it cannot."""
        if not self.is_loaded:
            return BsaDetailedStatus.MEDIA_NOT_PRESENT
        if self.is_changed:
            return BsaDetailedStatus.VOLUME_CHANGED
        return BsaDetailedStatus.DEVICE_NOT_READY

    @property
    def writes_through(self) -> bool:
        """Whether every write is made durable before its reply."""
        return self.write_policy != BsaWritePolicy.WRITE_TO_CACHE

    def power_up_on_access(self) -> None:
        """Power up for a request, if the settings say so."""
        if self.power_state >= _FIRST_POWERED_DOWN and self.power["on_access"]:
            self.set_power(BsaPowerOperation.POWER_UP.value)

    def count_read(self, length: int) -> None:
        """Count a read in the statistics."""
        self.read_sizes[length.bit_length()] += 1

    def count_write(self, length: int) -> None:
        """Count a write in the statistics."""
        self.write_sizes[length.bit_length()] += 1

    def log_error(self, function: int, detail: int, now_ns: int) -> None:
        """Add a row to the error log."""
        self._errors.append(
            {
                "error_data_index": self._next_error & 0xFFFF,
                "function": function,
                "detailed_error_code": detail,
                "time_stamp": now_ns // 1000,
                "user_info": 0,
            }
        )
        self._next_error += 1

    @property
    def errors(self) -> tuple[Row, ...]:
        """The error log."""
        return tuple(self._errors)

    def annotate_error(self, key: int | bytes, name: str, value: Any) -> None:
        """Set the user's note on an error."""
        for row in self._errors:
            if row["error_data_index"] == key:
                row[name] = value

    def delete_error(self, key: int | bytes) -> None:
        """Remove one error."""
        kept = [row for row in self._errors if row["error_data_index"] != key]
        self.clear_errors()
        self._errors.extend(kept)

    def clear_errors(self) -> None:
        """Remove all errors."""
        self._errors.clear()


def block_groups(state: BlockState) -> list[Group]:
    """Return the parameter groups of the block storage class for one device."""
    values = _Values(state)
    return [
        ScalarGroup(groups.BSA_DEVICE_INFO, values.device_info),
        ScalarGroup(
            groups.BSA_OPERATIONAL_CONTROL,
            lambda: state.control,
            write=lambda name, value: state.control.__setitem__(name, value),
            writeable=_CONTROL_WRITEABLE,
        ),
        ScalarGroup(
            groups.BSA_POWER_CONTROL,
            lambda: state.power,
            write=lambda name, value: state.power.__setitem__(name, value),
            writeable=("powerdown_timeout", "on_access"),
        ),
        ScalarGroup(
            groups.BSA_CACHE_CONTROL,
            values.cache_control,
            write=values.set_cache_control,
            writeable=("write_policy",),
        ),
        ScalarGroup(groups.BSA_MEDIA_INFO, values.media_info),
        TableGroup(
            groups.BSA_ERROR_LOG,
            lambda: state.errors,
            write=state.annotate_error,
            writeable=("user_info",),
            delete=state.delete_error,
            clear=state.clear_errors,
        ),
        ScalarGroup(groups.BSA_HISTORICAL_STATS_CONTROL, dict),
        ScalarGroup(groups.BSA_STORAGE_HISTORICAL_STATS, values.storage_statistics),
        ScalarGroup(groups.BSA_CACHE_HISTORICAL_STATS, dict),
        ScalarGroup(groups.BSA_VOLUME_SET_INFORMATION, values.volume_set),
        ScalarGroup(groups.BSA_PROTECTED_SPACE_EXTENT, values.extent),
        ScalarGroup(groups.BSA_AGGREGATE_PROTECTED_SPACE_EXTENT, values.blocks),
        ScalarGroup(groups.BSA_PHYSICAL_EXTENT, values.physical_extent),
        ScalarGroup(groups.BSA_AGGREGATE_PHYSICAL_EXTENT, values.blocks),
        ScalarGroup(groups.BSA_REDUNDANCY, lambda: {"redundancy_type": _byte(BsaRedundancy.NONE)}),
        TableGroup(groups.BSA_COMPONENT_SPARES, tuple),
        TableGroup(groups.BSA_ASSOCIATION_TABLE, tuple),
    ]


class _Values:
    """Reads the groups' values off a device's state."""

    def __init__(self, state: BlockState) -> None:
        self._state = state

    @property
    def _store(self) -> BlockStore:
        return self._state.store

    def device_info(self) -> Row:
        state, store = self._state, self._store
        device_state = BsaState.DEVICE_LOADED | BsaState.CACHING
        device_state |= BsaState.POWERED_ON if state.power_state < _FIRST_POWERED_DOWN else 0
        device_state |= BsaState.MEDIA_LOADED if state.is_loaded else 0
        device_state |= BsaState.READY if state.is_up else 0
        device_state |= BsaState.READ_ONLY if store.read_only else 0
        device_state |= BsaState.LOCKOUT if state.is_locked else 0
        capability = BsaCapability.CACHING | BsaCapability.LOCKOUT | BsaCapability.DYNAMIC_CAPACITY
        capability |= BsaCapability.REMOVABLE_MEDIA if state.is_removable else 0
        capability |= BsaCapability.READ_ONLY if store.read_only else 0
        return {
            "device_type": BsaDeviceType.DIRECT.value,
            "number_of_paths": 1,
            "power_state": state.power_state,
            "block_size": store.block_size,
            "device_capacity": store.size,
            "device_capability_support": int(capability),
            "device_state": int(device_state),
        }

    def cache_control(self) -> Row:
        return {
            "write_policy": self._state.write_policy,
            "read_policy": BsaReadPolicy.BOTH.value,
            "error_correction": groups.BsaErrorCorrection.UNKNOWN.value,
        }

    def set_cache_control(self, name: str, value: int) -> None:
        self._state.write_policy = BsaWritePolicy(value).value

    def media_info(self) -> Row:
        loaded = self._state.is_loaded
        return {
            "capacity": self._store.size if loaded else 0,
            "block_size": self._store.block_size,
        }

    def storage_statistics(self) -> Row:
        row: dict[str, int | bytes] = {
            "read_commands": sum(self._state.read_sizes),
            "write_commands": sum(self._state.write_sizes),
        }
        for kind, sizes in (("read", self._state.read_sizes), ("write", self._state.write_sizes)):
            edges = (0, *(bits + 1 for bits in _RANGE_BITS), len(sizes))
            for number in range(4):
                low, high = edges[number], edges[number + 1]
                row[f"io_range{number + 1}_{kind}"] = sum(sizes[low:high])
        return row

    def volume_set(self) -> Row:
        name = self._store.description.rpartition("/")[2].encode("ascii", "replace")
        return {"name": name[:64].ljust(64), "total_storage_capacity": self._store.size}

    def blocks(self) -> Row:
        return {"number_blocks": self._store.size // self._store.block_size}

    def extent(self) -> Row:
        return {**self.blocks(), "block_size": self._store.block_size}

    def physical_extent(self) -> Row:
        return {**self.extent(), "user_data": self._store.size // self._store.block_size}


def _byte(value: IntEnum) -> int:
    return value.value
