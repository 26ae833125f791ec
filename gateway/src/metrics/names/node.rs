//! The metrics of the machine: what node_exporter tells of it, as far as an operator of a gateway asks for it.
//!
//! Names and labels are node_exporter's with our prefix, but for two things: processors are added up, so that a machine
//! with many costs no more series, and names of memory are in snake case, as Prometheus's own checker wants them.

use super::{Family, counter, gauge};

pub const BOOT_TIME: Family =
    gauge("portcullis_node_boot_time_seconds", &[], "When the machine was started, in seconds since 1970.");
pub const CPU_SECONDS: Family = counter(
    "portcullis_node_cpu_seconds_total",
    &["mode"],
    "Time of all processors together by what they did, in seconds.",
);
pub const CPUS: Family = gauge("portcullis_node_cpus", &[], "Processors that are online.");
pub const DESCRIPTORS: Family =
    gauge("portcullis_node_filefd_allocated", &[], "File descriptors that the machine has open.");
pub const DESCRIPTORS_MAX: Family =
    gauge("portcullis_node_filefd_maximum", &[], "File descriptors that the machine may have open.");
pub const FILESYSTEM_AVAIL: Family = gauge(
    "portcullis_node_filesystem_avail_bytes",
    &["directory"],
    "Space for the daemon in the file system of a directory, in bytes.",
);
pub const FILESYSTEM_FILES: Family =
    gauge("portcullis_node_filesystem_files", &["directory"], "Files that the file system can have.");
pub const FILESYSTEM_FILES_FREE: Family =
    gauge("portcullis_node_filesystem_files_free", &["directory"], "Files that it can have more.");
pub const FILESYSTEM_READONLY: Family = gauge(
    "portcullis_node_filesystem_readonly",
    &["directory"],
    "1 while nothing can be written to it, else 0.",
);
pub const FILESYSTEM_SIZE: Family =
    gauge("portcullis_node_filesystem_size_bytes", &["directory"], "Size of the file system, in bytes.");
pub const LOAD1: Family = gauge("portcullis_node_load1", &[], "Load average of the last minute.");
pub const LOAD5: Family = gauge("portcullis_node_load5", &[], "Load average of the last five minutes.");
pub const LOAD15: Family = gauge("portcullis_node_load15", &[], "Load average of the last fifteen minutes.");
pub const MEMORY_AVAILABLE: Family = gauge(
    "portcullis_node_memory_available_bytes",
    &[],
    "Memory that programs can get without swapping, in bytes.",
);
pub const MEMORY_SWAP_FREE: Family =
    gauge("portcullis_node_memory_swap_free_bytes", &[], "Swap space that is free, in bytes.");
pub const MEMORY_SWAP_TOTAL: Family =
    gauge("portcullis_node_memory_swap_total_bytes", &[], "Swap space, in bytes.");
pub const MEMORY_TOTAL: Family =
    gauge("portcullis_node_memory_total_bytes", &[], "Memory of the machine, in bytes.");
pub const NETWORK_RECEIVE_BYTES: Family =
    counter("portcullis_node_network_receive_bytes_total", &["device"], "Bytes that an interface received.");
pub const NETWORK_RECEIVE_DROP: Family = counter(
    "portcullis_node_network_receive_drop_total",
    &["device"],
    "Packets that an interface received and the machine dropped.",
);
pub const NETWORK_RECEIVE_ERRORS: Family = counter(
    "portcullis_node_network_receive_errs_total",
    &["device"],
    "Packets that an interface received damaged.",
);
pub const NETWORK_RECEIVE_PACKETS: Family = counter(
    "portcullis_node_network_receive_packets_total",
    &["device"],
    "Packets that an interface received.",
);
pub const NETWORK_TRANSMIT_BYTES: Family =
    counter("portcullis_node_network_transmit_bytes_total", &["device"], "Bytes that an interface sent.");
pub const NETWORK_TRANSMIT_DROP: Family = counter(
    "portcullis_node_network_transmit_drop_total",
    &["device"],
    "Packets that were dropped instead of sent.",
);
pub const NETWORK_TRANSMIT_ERRORS: Family = counter(
    "portcullis_node_network_transmit_errs_total",
    &["device"],
    "Packets that an interface failed to send.",
);
pub const NETWORK_TRANSMIT_PACKETS: Family =
    counter("portcullis_node_network_transmit_packets_total", &["device"], "Packets that an interface sent.");
pub const NETWORK_UP: Family =
    gauge("portcullis_node_network_up", &["device"], "1 while the interface has a link and is up, else 0.");
pub const CLOCK_MAX_ERROR: Family =
    gauge("portcullis_node_timex_maxerror_seconds", &[], "How far the clock may be off at most, in seconds.");
pub const CLOCK_SYNCHRONISED: Family = gauge(
    "portcullis_node_timex_sync_status",
    &[],
    "1 while the clock is synchronised to a time server, else 0.",
);

/// All of them, by name.
pub const ALL: [Family; 28] = [
    BOOT_TIME,
    CPU_SECONDS,
    CPUS,
    DESCRIPTORS,
    DESCRIPTORS_MAX,
    FILESYSTEM_AVAIL,
    FILESYSTEM_FILES,
    FILESYSTEM_FILES_FREE,
    FILESYSTEM_READONLY,
    FILESYSTEM_SIZE,
    LOAD1,
    LOAD15,
    LOAD5,
    MEMORY_AVAILABLE,
    MEMORY_SWAP_FREE,
    MEMORY_SWAP_TOTAL,
    MEMORY_TOTAL,
    NETWORK_RECEIVE_BYTES,
    NETWORK_RECEIVE_DROP,
    NETWORK_RECEIVE_ERRORS,
    NETWORK_RECEIVE_PACKETS,
    NETWORK_TRANSMIT_BYTES,
    NETWORK_TRANSMIT_DROP,
    NETWORK_TRANSMIT_ERRORS,
    NETWORK_TRANSMIT_PACKETS,
    NETWORK_UP,
    CLOCK_MAX_ERROR,
    CLOCK_SYNCHRONISED,
];
