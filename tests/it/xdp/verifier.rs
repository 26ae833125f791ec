//! The kernel's verifier and every program of the object: a refusal is shown as the verifier tells it.

use std::error::Error as _;
use std::path::Path;

use aya::EbpfLoader;
use aya::programs::{Program, ProgramError};

use crate::object;
use crate::wire::BpfFs;

/// The verifier tells the path of the refused instruction last; what comes before explains little.
const TAIL_LINES: usize = 250;

/// Loads what has a name in the object, each by its kind.
fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        Program::SkReuseport(program) => program.load(),
        Program::SkMsg(program) => program.load(),
        Program::SkSkb(program) => program.load(),
        other => panic!("this test does not know how to load {:?}: teach it", other.prog_type()),
    }
}

/// An error with its causes, and of a verifier's log the end, line by line.
fn told(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        return format!("{error}{cause}");
    };
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    let left_out = lines.len().saturating_sub(TAIL_LINES);
    format!("{io_error}\n({left_out} lines of the verifier left out)\n{}", lines[left_out..].join("\n"))
}

fn verify(object: &Path) -> Result<Vec<String>, String> {
    let pins = BpfFs::mount();
    let bytes = std::fs::read(object).unwrap();
    let loaded = EbpfLoader::new().default_map_pin_directory(pins.path()).load(&bytes);
    let mut ebpf = loaded.map_err(|error| {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("the object's maps cannot be made: {error}{cause}")
    })?;
    let mut verified = Vec::new();
    let mut refused = Vec::new();
    for (name, program) in ebpf.programs_mut() {
        match load(program) {
            Ok(()) => {
                let count = program.info().unwrap().verified_instruction_count();
                verified.push(format!("{name}: {} instructions verified", count.unwrap_or(0)));
            }
            Err(error) => refused.push(format!("`{name}` is refused: {}", told(&error))),
        }
    }
    if refused.is_empty() { Ok(verified) } else { Err(refused.join("\n")) }
}

#[test]
fn every_program_passes_the_verifier_of_this_kernel() {
    let Some(object) = object() else { return };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    match verify(&object) {
        Ok(verified) => println!("kernel {}:\n  {}", release.trim(), verified.join("\n  ")),
        Err(refused) => panic!("kernel {}: {refused}", release.trim()),
    }
}
