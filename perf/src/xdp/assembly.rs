//! The tiny programs of the generator and of the far ends, written as instructions (RFC 9669) and wrapped into
//! the smallest ELF file that a loader takes, so that the measurement needs no compiler for the kernel.

/// One instruction: operation, registers, offset, immediate.
#[derive(Clone, Copy, Debug)]
struct Instruction {
    operation: u8,
    destination: u8,
    source: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    fn to_bytes(self) -> [u8; 8] {
        let [o0, o1] = self.offset.to_le_bytes();
        let [i0, i1, i2, i3] = self.immediate.to_le_bytes();
        [self.operation, self.destination | self.source << 4, o0, o1, i0, i1, i2, i3]
    }
}

const fn instruction(operation: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { operation, destination, source, offset, immediate }
}

const LOAD_WORD: u8 = 0x61;
const LOAD_HALF: u8 = 0x69;
const LOAD_BYTE: u8 = 0x71;
const STORE_HALF: u8 = 0x6b;
const STORE_WORD: u8 = 0x63;
const STORE_BYTE_IMMEDIATE: u8 = 0x72;
const STORE_HALF_IMMEDIATE: u8 = 0x6a;
const STORE_WORD_IMMEDIATE: u8 = 0x62;
const JUMP_GREATER: u8 = 0x2d;
const JUMP_NOT_EQUAL_IMMEDIATE: u8 = 0x55;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const MOVE: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const MOVE_32: u8 = 0xbc;
const ADD_IMMEDIATE: u8 = 0x07;
const ADD_32: u8 = 0x0c;
const ADD_32_IMMEDIATE: u8 = 0x04;
const TO_BIG_ENDIAN: u8 = 0xdc;
const XOR_32_IMMEDIATE: u8 = 0xa4;
const OR_32_IMMEDIATE: u8 = 0x44;
const AND_32_IMMEDIATE: u8 = 0x54;
const SHIFT_RIGHT_32_IMMEDIATE: u8 = 0x74;

const GET_RANDOM: i32 = 7;
const REDIRECT: i32 = 23;
const CHECKSUM_DIFFERENCE: i32 = 28;

/// The verifier walks through every turn of a loop, and gives up at a million instructions.
pub(super) const TURNS_MAX: u32 = 100_000;

/// As a little-endian half word of a frame.
const ETHERTYPE_IPV4: i32 = 0x0008;

const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;

/// Where a frame gets a random source, and which fields take its complement, so that no checksum changes: in ones'
/// complement a number and its complement add up to nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vary {
    /// The low half of the source address.
    pub(super) address: u16,
    /// In the same sum of the IP header.
    pub(super) header_complement: u16,
    /// In the sum of the transport, whose pseudo-header holds the address too.
    pub(super) address_complement: u16,
    pub(super) port: u16,
    pub(super) port_complement: u16,
}

/// Writes `frame` over every frame, from a random source if asked, and sends it out of the interface, after `turns` of a
/// loop that does nothing.
///
/// Frames come back as their receiver has left them, with other addresses where it has forwarded them: so each is
/// written anew. Their length is that of `frame`, down to a multiple of four.
pub(super) fn send(interface: u32, turns: u32, frame: &[u8], vary: Option<Vary>) -> Vec<u8> {
    // An index beyond i32 does not exist: the kernel's own type for it is int.
    let interface = i32::try_from(interface).unwrap_or(i32::MAX);
    let end = [
        instruction(MOVE_IMMEDIATE, 1, 0, 0, interface),
        instruction(MOVE_IMMEDIATE, 2, 0, 0, 0),
        instruction(CALL, 0, 0, 0, REDIRECT),
    ];
    let vary = vary.map(randomise).unwrap_or_default();
    let body = [restore(frame), vary, end.to_vec()].concat();
    let length = i32::try_from(frame.len()).unwrap_or(i32::MAX);
    let over = i16::try_from(body.len()).unwrap_or(i16::MAX);
    // r7: the frame, r3: its end. A frame that is too short goes nowhere.
    let begin = [
        instruction(LOAD_WORD, 7, 1, 0, 0),
        instruction(LOAD_WORD, 3, 1, 4, 0),
        instruction(MOVE, 4, 7, 0, 0),
        instruction(ADD_IMMEDIATE, 4, 0, 0, length),
        instruction(MOVE_IMMEDIATE, 0, 0, 0, 0),
        instruction(JUMP_GREATER, 4, 3, over, 0),
    ];
    elf(&[linger(turns), begin.to_vec(), body, vec![instruction(EXIT, 0, 0, 0, 0)]].concat())
}

fn restore(frame: &[u8]) -> Vec<Instruction> {
    let words = (0..).step_by(4).zip(frame.chunks_exact(4));
    let store = |(at, word): (i16, &[u8])| {
        let word = word.first_chunk().copied().unwrap_or_default();
        instruction(STORE_WORD_IMMEDIATE, 7, 0, at, i32::from_le_bytes(word))
    };
    words.map(store).collect()
}

/// Does nothing for a number of turns.
pub(super) fn wait(turns: u32) -> Vec<u8> {
    let end = [instruction(MOVE_IMMEDIATE, 0, 0, 0, XDP_DROP), instruction(EXIT, 0, 0, 0, 0)];
    elf(&[linger(turns), end.to_vec()].concat())
}

fn linger(turns: u32) -> Vec<Instruction> {
    if turns == 0 {
        return Vec::new();
    }
    let turns = i32::try_from(turns.min(TURNS_MAX)).unwrap_or(0);
    vec![
        instruction(MOVE_IMMEDIATE, 8, 0, 0, turns),
        instruction(ADD_IMMEDIATE, 8, 0, 0, -1),
        instruction(JUMP_NOT_EQUAL_IMMEDIATE, 8, 0, -2, 0),
    ]
}

/// Drops every frame after a look at its first bytes, as any filter must: they come from another core's cache.
pub(super) fn drop_all() -> Vec<u8> {
    elf(&[
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(LOAD_WORD, 3, 1, 4, 0),
        instruction(MOVE, 4, 2, 0, 0),
        instruction(ADD_IMMEDIATE, 4, 0, 0, 54),
        instruction(MOVE_IMMEDIATE, 0, 0, 0, 0),
        instruction(JUMP_GREATER, 4, 3, 3, 0),
        // The action depends on what was read, or the processor would not wait for it.
        instruction(LOAD_WORD, 0, 2, 50, 0),
        instruction(AND_32_IMMEDIATE, 0, 0, 0, 0),
        instruction(OR_32_IMMEDIATE, 0, 0, 0, XDP_DROP),
        instruction(EXIT, 0, 0, 0, 0),
    ])
}

/// Drops the frames of IPv4 whose type of service is `mark`, and lets the rest pass.
pub(super) fn drop_marked(mark: u8) -> Vec<u8> {
    elf(&[
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(LOAD_WORD, 3, 1, 4, 0),
        instruction(MOVE, 4, 2, 0, 0),
        instruction(ADD_IMMEDIATE, 4, 0, 0, 34),
        instruction(MOVE_IMMEDIATE, 0, 0, 0, XDP_PASS),
        instruction(JUMP_GREATER, 4, 3, 3, 0),
        instruction(LOAD_BYTE, 2, 2, 15, 0),
        instruction(JUMP_NOT_EQUAL_IMMEDIATE, 2, 0, 1, i32::from(mark)),
        instruction(MOVE_IMMEDIATE, 0, 0, 0, XDP_DROP),
        instruction(EXIT, 0, 0, 0, 0),
    ])
}

/// Drops the frames of IPv4 whose destination begins with these two bytes, and lets the rest pass.
pub(super) fn drop_to([first, second]: [u8; 2]) -> Vec<u8> {
    let half = i32::from(u16::from_le_bytes([first, second]));
    elf(&[
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(LOAD_WORD, 3, 1, 4, 0),
        instruction(MOVE, 4, 2, 0, 0),
        instruction(ADD_IMMEDIATE, 4, 0, 0, 34),
        instruction(MOVE_IMMEDIATE, 0, 0, 0, XDP_PASS),
        instruction(JUMP_GREATER, 4, 3, 5, 0),
        instruction(LOAD_HALF, 3, 2, 12, 0),
        instruction(JUMP_NOT_EQUAL_IMMEDIATE, 3, 0, 3, ETHERTYPE_IPV4),
        instruction(LOAD_HALF, 2, 2, 30, 0),
        instruction(JUMP_NOT_EQUAL_IMMEDIATE, 2, 0, 1, half),
        instruction(MOVE_IMMEDIATE, 0, 0, 0, XDP_DROP),
        instruction(EXIT, 0, 0, 0, 0),
    ])
}

/// Which of a segment's ports is that of the connections that are answered.
#[derive(Clone, Copy, Debug)]
pub(super) enum Port {
    Source(u16),
    Destination(u16),
}

/// What is answered: a segment with as many bytes.
const PAYLOAD: u16 = 64;
/// IPv4 and TCP without options.
const HEADERS: u16 = 40;
/// In an Ethernet frame.
const IP: i16 = 14;
const ADDRESSES: i16 = 26;
const TCP: i16 = 34;

/// Answers the segments of connections as a machine at their end would that had nothing else to do: the same bytes go
/// back, they acknowledge what came, and leave by the same interface. Other segments of these connections are dropped;
/// everything else passes.
pub(super) fn answer(interface: u32, port: Port) -> Vec<u8> {
    let interface = i32::try_from(interface).unwrap_or(i32::MAX);
    let (at, port) = match port {
        Port::Source(port) => (TCP, port),
        Port::Destination(port) => (TCP + 2, port),
    };
    let half = |number: u16| i32::from(number.to_be());
    let swap = |load: u8, store: u8, one: i16, other: i16| {
        [
            instruction(load, 1, 7, one, 0),
            instruction(load, 2, 7, other, 0),
            instruction(store, 7, 2, one, 0),
            instruction(store, 7, 1, other, 0),
        ]
    };
    let looks = [
        instruction(LOAD_WORD, 7, 1, 0, 0),
        instruction(LOAD_WORD, 3, 1, 4, 0),
        instruction(MOVE, 4, 7, 0, 0),
        instruction(ADD_IMMEDIATE, 4, 0, 0, 54),
        instruction(MOVE_IMMEDIATE, 0, 0, 0, XDP_PASS),
        instruction(JUMP_GREATER, 4, 3, TO_END, 0),
        instruction(LOAD_HALF, 2, 7, 12, 0),
        instruction(JUMP_NOT_EQUAL_IMMEDIATE, 2, 0, TO_END, ETHERTYPE_IPV4),
        instruction(LOAD_HALF, 2, 7, at, 0),
        instruction(JUMP_NOT_EQUAL_IMMEDIATE, 2, 0, TO_END, half(port)),
        instruction(MOVE_IMMEDIATE, 0, 0, 0, XDP_DROP),
        instruction(LOAD_HALF, 2, 7, IP + 2, 0),
        instruction(JUMP_NOT_EQUAL_IMMEDIATE, 2, 0, TO_END, half(HEADERS + PAYLOAD)),
        instruction(MOVE, 4, 7, 0, 0),
        instruction(ADD_IMMEDIATE, 4, 0, 0, i32::from(HEADERS + PAYLOAD) + i32::from(IP)),
        instruction(JUMP_GREATER, 4, 3, TO_END, 0),
    ];
    let turn = [
        swap(LOAD_WORD, STORE_WORD, 0, 6),
        swap(LOAD_HALF, STORE_HALF, 4, 10),
        swap(LOAD_WORD, STORE_WORD, ADDRESSES, ADDRESSES + 4),
        swap(LOAD_HALF, STORE_HALF, TCP, TCP + 2),
        // Sequence number and acknowledgement: what comes next is what the other end has asked for.
        swap(LOAD_WORD, STORE_WORD, TCP + 4, TCP + 8),
    ];
    let rest = [
        instruction(TO_BIG_ENDIAN, 1, 0, 0, 32),
        instruction(ADD_32_IMMEDIATE, 1, 0, 0, i32::from(PAYLOAD)),
        instruction(TO_BIG_ENDIAN, 1, 0, 0, 32),
        instruction(STORE_WORD, 7, 1, TCP + 8, 0),
        // Time to live.
        instruction(STORE_BYTE_IMMEDIATE, 7, 0, IP + 8, 64),
    ];
    let pseudo_header = half(6) + half(HEADERS / 2 + PAYLOAD);
    let sums = [
        checksum(IP, HEADERS / 2, IP + 10, 0),
        checksum(ADDRESSES, 8 + HEADERS / 2 + PAYLOAD, TCP + 16, pseudo_header),
    ];
    let end = [
        instruction(MOVE_IMMEDIATE, 1, 0, 0, interface),
        instruction(MOVE_IMMEDIATE, 2, 0, 0, 0),
        instruction(CALL, 0, 0, 0, REDIRECT),
        instruction(EXIT, 0, 0, 0, 0),
    ];
    let program = [looks.to_vec(), turn.concat(), rest.to_vec(), sums.concat(), end.to_vec()].concat();
    elf(&land(program))
}

/// Writes the Internet checksum (RFC 1071) of `length` bytes at `from`, and of `seed`, into the frame.
fn checksum(from: i16, length: u16, into: i16, seed: i32) -> Vec<Instruction> {
    vec![
        instruction(STORE_HALF_IMMEDIATE, 7, 0, into, 0),
        instruction(MOVE_IMMEDIATE, 1, 0, 0, 0),
        instruction(MOVE_IMMEDIATE, 2, 0, 0, 0),
        instruction(MOVE, 3, 7, 0, 0),
        instruction(ADD_IMMEDIATE, 3, 0, 0, i32::from(from)),
        instruction(MOVE_IMMEDIATE, 4, 0, 0, i32::from(length)),
        instruction(MOVE_IMMEDIATE, 5, 0, 0, seed),
        instruction(CALL, 0, 0, 0, CHECKSUM_DIFFERENCE),
        instruction(MOVE_32, 1, 0, 0, 0),
        instruction(SHIFT_RIGHT_32_IMMEDIATE, 1, 0, 0, 16),
        instruction(AND_32_IMMEDIATE, 0, 0, 0, 0xffff),
        instruction(ADD_32, 0, 1, 0, 0),
        instruction(MOVE_32, 1, 0, 0, 0),
        instruction(SHIFT_RIGHT_32_IMMEDIATE, 1, 0, 0, 16),
        instruction(ADD_32, 0, 1, 0, 0),
        instruction(XOR_32_IMMEDIATE, 0, 0, 0, -1),
        instruction(STORE_HALF, 7, 0, into, 0),
    ]
}

/// A jump to the last instruction, wherever that will be.
const TO_END: i16 = i16::MAX;

/// Gives the jumps to the end their offsets.
fn land(mut program: Vec<Instruction>) -> Vec<Instruction> {
    let last = program.len().saturating_sub(1);
    for (at, one) in program.iter_mut().enumerate() {
        if one.offset == TO_END {
            one.offset = i16::try_from(last - at - 1).unwrap_or(0);
        }
    }
    program
}

/// Lets every frame pass.
pub(super) fn pass_all() -> Vec<u8> {
    constant(XDP_PASS)
}

fn constant(action: i32) -> Vec<u8> {
    elf(&[instruction(MOVE_IMMEDIATE, 0, 0, 0, action), instruction(EXIT, 0, 0, 0, 0)])
}

fn randomise(vary: Vary) -> Vec<Instruction> {
    let at = |field: u16| i16::try_from(field).unwrap_or(i16::MAX);
    let store = |source: u8, field: u16| instruction(STORE_HALF, 7, source, at(field), 0);
    vec![
        instruction(CALL, 0, 0, 0, GET_RANDOM),
        instruction(MOVE_32, 1, 0, 0, 0),
        instruction(XOR_32_IMMEDIATE, 1, 0, 0, -1),
        store(0, vary.address),
        store(1, vary.header_complement),
        store(1, vary.address_complement),
        instruction(SHIFT_RIGHT_32_IMMEDIATE, 0, 0, 0, 16),
        instruction(SHIFT_RIGHT_32_IMMEDIATE, 1, 0, 0, 16),
        // Never port 0; the complement follows.
        instruction(OR_32_IMMEDIATE, 0, 0, 0, 1),
        instruction(AND_32_IMMEDIATE, 1, 0, 0, 0xfffe),
        store(0, vary.port),
        store(1, vary.port_complement),
    ]
}

pub(super) const NAME: &str = "generate";
const STRINGS: &[u8] = b"\0xdp\0.symtab\0.strtab\0generate\0";
const HEADER: u64 = 64;
const SYMBOL: u64 = 24;

/// An ELF file with one function in the section `xdp`.
fn elf(instructions: &[Instruction]) -> Vec<u8> {
    let code: Vec<u8> = instructions.iter().flat_map(|one| one.to_bytes()).collect();
    let length = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap_or(0);
    let (symbols, strings) = (HEADER + length(&code), HEADER + length(&code) + 2 * SYMBOL);
    let sections = (strings + length(STRINGS)).next_multiple_of(8);
    let mut file = header(sections);
    file.extend(&code);
    // The null symbol, and a global function (0x12) that is the whole of section 1.
    file.extend([0; 24]);
    file.extend(21_u32.to_le_bytes());
    file.extend([0x12, 0, 1, 0]);
    file.extend([0_u64, length(&code)].map(u64::to_le_bytes).concat());
    file.extend(STRINGS);
    file.resize(usize::try_from(sections).unwrap_or(0), 0);
    file.extend([0; 64]);
    // Name, type, flags, offset, size, link, info, entry size.
    file.extend(section([1, 1], 6, [HEADER, length(&code)], [0, 0], 0));
    file.extend(section([5, 2], 0, [symbols, 2 * SYMBOL], [3, 1], SYMBOL));
    file.extend(section([13, 3], 0, [strings, length(STRINGS)], [0, 0], 0));
    file
}

/// The ELF header: 64 bits, little endian, relocatable, for BPF (247), with four sections at `sections`.
fn header(sections: u64) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([1_u16, 247].map(u16::to_le_bytes).concat());
    file.extend(1_u32.to_le_bytes());
    file.extend([0, 0, sections].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    file.extend([64_u16, 0, 0, 64, 4, 3].map(u16::to_le_bytes).concat());
    file
}

fn section(name: [u32; 2], flags: u64, place: [u64; 2], link: [u32; 2], entry: u64) -> Vec<u8> {
    let words = |all: [u32; 2]| all.map(u32::to_le_bytes).concat();
    let longs = |all: &[u64]| all.iter().flat_map(|one| one.to_le_bytes()).collect::<Vec<u8>>();
    [words(name), longs(&[flags, 0]), longs(&place), words(link), longs(&[8, entry])].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loader_finds_the_function_and_nothing_else() {
        for file in [
            pass_all(),
            drop_all(),
            drop_marked(4),
            drop_to([198, 18]),
            wait(9),
            send(7, 9, &[1; 60], None),
            answer(7, Port::Source(443)),
        ] {
            assert_eq!(file.len() % 8, 0);
            let found = aya::EbpfLoader::new().load(&file).unwrap();
            let names: Vec<&str> = found.programs().map(|(name, _)| name).collect();
            assert_eq!(names, [NAME]);
        }
    }
}
