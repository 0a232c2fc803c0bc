# SPDX-License-Identifier: Apache-2.0
"""Parameter groups of LAN ports, byte packed.

As written in the SIG's i2olan.h 1.5.3. Groups 0x0200 and up depend on the LAN type.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from construct import Bytes, Int8ul, Int16ul, Int32ul, Int64ul

from i2o.frames.layout import ParameterGroup, group


class LanType(IntEnum):
    """LanType of group 0x0000."""

    ETHERNET = 0x30
    VG_100BASE = 0x40
    TOKEN_RING = 0x50
    FDDI = 0x60
    FIBRE_CHANNEL = 0x70


class LanDeviceState(IntEnum):
    """CurrentDeviceState of group 0x0000."""

    UNKNOWN = 0x00
    UNCLAIMED = 0x01
    OPERATIONAL = 0x02
    SUSPENDED = 0x03
    RESETTING = 0x04
    ERROR = 0x05
    OPERATIONAL_NO_RX = 0x06
    SUSPENDED_NO_RX = 0x07


LAN_DEVICE_INFO: Final = group(
    "device_info",
    0x0000,
    "lan_type" / Int16ul,
    "flags" / Int16ul,
    "address_format" / Int8ul,
    "current_device_state" / Int8ul,
    "device_error_status" / Int16ul,
    "min_packet_size" / Int32ul,
    "max_packet_size" / Int32ul,
    "hardware_address" / Bytes(8),
    "max_tx_wire_speed" / Int64ul,
    "max_rx_wire_speed" / Int64ul,
    "min_sdu_size" / Int32ul,
    "max_sdu_size" / Int32ul,
    "reserved" / Int32ul,
    chapter="lan",
    enums={"lan_type": LanType, "current_device_state": LanDeviceState},
)
LAN_MAC_ADDRESS: Final = group(
    "mac_address",
    0x0001,
    "active_address" / Bytes(8),
    "current_network_address" / Bytes(8),
    "functional_address_mask" / Int64ul,
    "filter_mask" / Int32ul,
    "hardware_capability" / Int32ul,
    "max_size_multicast_table" / Int32ul,
    "max_filter_perfect" / Int32ul,
    "max_filter_imperfect" / Int32ul,
    chapter="lan",
)
LAN_MULTICAST_MAC_ADDRESS: Final = group(
    "multicast_mac_address",
    0x0002,
    "multicast_mac_address" / Bytes(8),
    chapter="lan",
    table=True,
)
LAN_BATCH_CONTROL: Final = group(
    "batch_control",
    0x0003,
    "batch_flags" / Int32ul,
    "reserved1" / Int32ul,
    "reserved2" / Int32ul,
    "reserved3" / Int32ul,
    "reserved4" / Int32ul,
    "max_rx_batch_count" / Int32ul,
    "max_rx_batch_delay" / Int32ul,
    "max_tx_batch_delay" / Int32ul,
    "max_tx_batch_count" / Int32ul,
    chapter="lan",
)
LAN_OPERATION: Final = group(
    "operation",
    0x0004,
    "packet_pre_pad" / Int32ul,
    "user_flags" / Int32ul,
    "packet_orphan_limit" / Int32ul,
    "tx_modes_enable" / Int32ul,
    "rx_modes_enable" / Int32ul,
    chapter="lan",
    note="The loopback bits of the transmit modes differ between the SIG header and Linux.",
)
LAN_MEDIA_OPERATION: Final = group(
    "media_operation",
    0x0005,
    "connector_type" / Int32ul,
    "connection_type" / Int32ul,
    "current_tx_wire_speed" / Int64ul,
    "current_rx_wire_speed" / Int64ul,
    "duplex_mode" / Int8ul,
    "link_status" / Int8ul,
    "reserved" / Int8ul,
    "duplex_mode_target" / Int8ul,
    "connector_type_target" / Int32ul,
    "connection_type_target" / Int32ul,
    chapter="lan",
)
LAN_ALTERNATE_ADDRESS: Final = group(
    "alternate_address",
    0x0006,
    "alternate_address" / Bytes(8),
    chapter="lan",
    table=True,
)
LAN_TRANSMIT_INFO: Final = group(
    "transmit_info",
    0x0007,
    "tx_max_packet_sg" / Int32ul,
    "tx_max_chain_sg" / Int32ul,
    "tx_max_pkts_out" / Int32ul,
    "tx_max_req_pkts" / Int32ul,
    "tx_modes" / Int32ul,
    chapter="lan",
)
LAN_RECEIVE_INFO: Final = group(
    "receive_info",
    0x0008,
    "rx_max_chain" / Int32ul,
    "rx_max_buckets" / Int32ul,
    "rx_modes" / Int32ul,
    "rx_max_buckets_reply" / Int32ul,
    "rx_max_packets_bucket" / Int32ul,
    "rx_max_post_buckets" / Int32ul,
    chapter="lan",
)
LAN_HISTORICAL_STATS: Final = group(
    "historical_stats",
    0x0100,
    "total_packets_tx" / Int64ul,
    "total_bytes_tx" / Int64ul,
    "total_packets_rx" / Int64ul,
    "total_bytes_rx" / Int64ul,
    "total_tx_errors" / Int64ul,
    "total_rx_errors" / Int64ul,
    "rx_no_buffer" / Int64ul,
    "adapter_reset_count" / Int64ul,
    "adapter_suspend_count" / Int64ul,
    chapter="lan",
)
LAN_SUPPORTED_OPTIONAL_STATS: Final = group(
    "supported_optional_stats",
    0x0180,
    "reserved" / Int64ul,
    "stat_182_supported" / Int64ul,
    "stat_183_supported" / Int64ul,
    "stat_184_supported" / Int64ul,
    chapter="lan",
)
LAN_OPTIONAL_TX_STATS: Final = group(
    "optional_tx_stats",
    0x0182,
    "tx_retry_count" / Int64ul,
    "directed_bytes_tx" / Int64ul,
    "directed_packets_tx" / Int64ul,
    "multicast_bytes_tx" / Int64ul,
    "multicast_packets_tx" / Int64ul,
    "broadcast_bytes_tx" / Int64ul,
    "broadcast_packets_tx" / Int64ul,
    "total_group_addr_tx" / Int64ul,
    "tx_packets_too_short" / Int64ul,
    chapter="lan",
)
LAN_OPTIONAL_RX_STATS: Final = group(
    "optional_rx_stats",
    0x0183,
    "rx_crc_errors" / Int64ul,
    "directed_bytes_rx" / Int64ul,
    "directed_packets_rx" / Int64ul,
    "multicast_bytes_rx" / Int64ul,
    "multicast_packets_rx" / Int64ul,
    "broadcast_bytes_rx" / Int64ul,
    "broadcast_packets_rx" / Int64ul,
    "total_group_addr_rx" / Int64ul,
    "rx_packets_too_short" / Int64ul,
    "rx_packets_too_long" / Int64ul,
    "runt_packets" / Int64ul,
    chapter="lan",
)
LAN_OPTIONAL_CHECKSUM_STATS: Final = group(
    "optional_checksum_stats",
    0x0184,
    "generate_ipv4" / Int64ul,
    "validate_success_ipv4" / Int64ul,
    "validate_error_ipv4" / Int64ul,
    "generate_tcp" / Int64ul,
    "validate_success_tcp" / Int64ul,
    "validate_error_tcp" / Int64ul,
    "generate_udp" / Int64ul,
    "validate_success_udp" / Int64ul,
    "validate_error_udp" / Int64ul,
    "generate_rsvp" / Int64ul,
    "validate_success_rsvp" / Int64ul,
    "validate_error_rsvp" / Int64ul,
    "generate_icmp" / Int64ul,
    "validate_success_icmp" / Int64ul,
    "validate_error_icmp" / Int64ul,
    chapter="lan",
)
LAN_ETHERNET_STATS: Final = group(
    "ethernet_stats",
    0x0200,
    "rx_alignment_error" / Int64ul,
    "tx_one_collision" / Int64ul,
    "tx_multiple_collisions" / Int64ul,
    "tx_deferred" / Int64ul,
    "tx_late_collision" / Int64ul,
    "tx_max_collisions" / Int64ul,
    "tx_carrier_lost" / Int64ul,
    "tx_excessive_deferrals" / Int64ul,
    chapter="lan",
)
LAN_ETHERNET_SUPPORTED_STATS: Final = group(
    "ethernet_supported_stats",
    0x0280,
    "statistics_supported" / Int64ul,
    chapter="lan",
)
LAN_ETHERNET_OPTIONAL_STATS: Final = group(
    "ethernet_optional_stats",
    0x0281,
    "rx_overrun" / Int64ul,
    "tx_underrun" / Int64ul,
    "tx_heartbeat_failure" / Int64ul,
    chapter="lan",
)
LAN_TOKEN_RING_STATS: Final = group(
    "token_ring_stats",
    0x0300,
    "line_errors" / Int64ul,
    "lost_frames" / Int64ul,
    "ac_error" / Int64ul,
    "tx_abort_delimiter" / Int64ul,
    "burst_errors" / Int64ul,
    "frame_copied_errors" / Int64ul,
    "frequency_errors" / Int64ul,
    "internal_error" / Int64ul,
    "last_ring_status" / Int64ul,
    "token_error" / Int64ul,
    "upstream_node_address" / Int64ul,
    "last_ring_id" / Int64ul,
    "last_beacon_type" / Int64ul,
    chapter="lan",
)
LAN_TOKEN_RING_SUPPORTED_STATS: Final = group(
    "token_ring_supported_stats",
    0x0380,
    "statistics_supported" / Int64ul,
    chapter="lan",
)
LAN_FDDI_STATS: Final = group(
    "fddi_stats",
    0x0400,
    "configuration_state" / Int64ul,
    "upstream_node" / Int64ul,
    "downstream_node" / Int64ul,
    "frame_errors" / Int64ul,
    "frames_lost" / Int64ul,
    "ring_mgmt_state" / Int64ul,
    "lct_failures" / Int64ul,
    "lem_rejects" / Int64ul,
    "lem_count" / Int64ul,
    "l_connection_state" / Int64ul,
    chapter="lan",
)
LAN_FDDI_SUPPORTED_STATS: Final = group(
    "fddi_supported_stats",
    0x0480,
    "statistics_supported" / Int64ul,
    chapter="lan",
)
LAN_FC_SUPPORTED_STATS: Final = group(
    "fc_supported_stats",
    0x0580,
    "statistics_supported" / Int64ul,
    chapter="lan",
)

GROUPS: Final[tuple[ParameterGroup, ...]] = (
    LAN_DEVICE_INFO,
    LAN_MAC_ADDRESS,
    LAN_MULTICAST_MAC_ADDRESS,
    LAN_BATCH_CONTROL,
    LAN_OPERATION,
    LAN_MEDIA_OPERATION,
    LAN_ALTERNATE_ADDRESS,
    LAN_TRANSMIT_INFO,
    LAN_RECEIVE_INFO,
    LAN_HISTORICAL_STATS,
    LAN_SUPPORTED_OPTIONAL_STATS,
    LAN_OPTIONAL_TX_STATS,
    LAN_OPTIONAL_RX_STATS,
    LAN_OPTIONAL_CHECKSUM_STATS,
    LAN_ETHERNET_STATS,
    LAN_ETHERNET_SUPPORTED_STATS,
    LAN_ETHERNET_OPTIONAL_STATS,
    LAN_TOKEN_RING_STATS,
    LAN_TOKEN_RING_SUPPORTED_STATS,
    LAN_FDDI_STATS,
    LAN_FDDI_SUPPORTED_STATS,
    LAN_FC_SUPPORTED_STATS,
)
