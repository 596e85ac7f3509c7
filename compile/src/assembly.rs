//! What can be read off the instructions of an AMD GPU as Mesa prints them: loops, and what of which binding is loaded and stored in
//! what width.
//!
//! A loop is what lies between a label and the last branch back to it; it is an innermost one if no other lies within. Which binding
//! an access is to, its descriptor says, four scalar registers that were loaded from the place of the binding in the descriptor
//! set; registers are followed through the text from its beginning to its end, as the compiler lays it out.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Bytes of a descriptor of a buffer in a descriptor set.
const DESCRIPTOR: u32 = 16;

/// A load from a buffer, or a store to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryAccess {
    /// The number of the binding, where the descriptor could be followed to it.
    pub binding: Option<u32>,
    /// Bytes for each invocation.
    pub bytes: u32,
    /// Whether it is a store; an atomic operation is one.
    pub is_store: bool,
}

/// The instructions of a kernel.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Each instruction, by whether it accesses a buffer.
    pub instructions: Vec<Option<MemoryAccess>>,
    /// The innermost loops, as places in `instructions`.
    pub loops: Vec<RangeInclusive<usize>>,
}

/// Scalar registers that hold a part of a descriptor: the binding's number and which word.
type Descriptors = BTreeMap<u32, (u32, u32)>;

impl Listing {
    /// Reads what Mesa prints.
    pub fn read(text: &str) -> Self {
        let mut labels: BTreeMap<&str, usize> = BTreeMap::new();
        let mut backward: BTreeMap<usize, usize> = BTreeMap::new();
        let mut descriptors = Descriptors::new();
        let mut instructions = Vec::new();
        for line in text.lines() {
            let code = line.split(';').next().unwrap_or_default().trim();
            if let Some(label) = code.strip_suffix(':').filter(|_| !line.starts_with(char::is_whitespace)) {
                labels.insert(label, instructions.len());
                continue;
            }
            // After the instructions come constants.
            if code.starts_with("/*") {
                break;
            }
            let Some((mnemonic, operands)) = instruction(line, code) else { continue };
            if let Some(&begin) = operands.first().filter(|_| mnemonic.contains("branch")).and_then(|to| labels.get(to))
            {
                backward.insert(begin, instructions.len());
            }
            instructions.push(access(mnemonic, &operands, &descriptors));
            follow(mnemonic, &operands, &mut descriptors);
        }
        let all: Vec<RangeInclusive<usize>> = backward.into_iter().map(|(begin, end)| begin..=end).collect();
        let holds = |outer: &RangeInclusive<usize>, inner: &RangeInclusive<usize>| {
            outer != inner && outer.contains(inner.start()) && outer.contains(inner.end())
        };
        let loops = all.iter().filter(|outer| !all.iter().any(|inner| holds(outer, inner))).cloned().collect();
        Self { instructions, loops }
    }

    /// Without the accesses that could not be followed to a binding: where registers are spilled, theirs look the same on GCN.
    #[must_use]
    pub fn known_only(mut self) -> Self {
        let is_known = |access: &MemoryAccess| access.binding.is_some();
        self.instructions.iter_mut().for_each(|access| *access = access.filter(is_known));
        self
    }

    /// The accesses among some of the instructions.
    pub fn accesses(&self, range: RangeInclusive<usize>) -> impl Iterator<Item = MemoryAccess> {
        self.instructions[range].iter().copied().flatten()
    }

    /// All accesses.
    pub fn all_accesses(&self) -> impl Iterator<Item = MemoryAccess> {
        self.instructions.iter().copied().flatten()
    }
}

/// An instruction's name and its operands.
fn instruction<'a>(line: &str, code: &'a str) -> Option<(&'a str, Vec<&'a str>)> {
    if !line.starts_with(char::is_whitespace) || !code.starts_with(|c: char| c.is_ascii_lowercase()) {
        return None;
    }
    let (mnemonic, rest) = code.split_once(char::is_whitespace).unwrap_or((code, ""));
    Some((mnemonic, rest.split(',').map(str::trim).collect()))
}

/// What an instruction on a buffer moves.
fn access(mnemonic: &str, operands: &[&str], descriptors: &Descriptors) -> Option<MemoryAccess> {
    let is_scalar = mnemonic.starts_with("s_buffer_load_");
    if !is_scalar && !mnemonic.starts_with("buffer_") {
        return None;
    }
    let bytes = width(mnemonic)?;
    let is_store = mnemonic.contains("_store_") || mnemonic.contains("_atomic_");
    // The descriptor is the one operand of four scalar registers; a scalar load's result may be as wide and comes before it.
    let operands = if is_scalar { operands.get(1..)? } else { operands };
    let descriptor = operands.iter().find_map(|operand| registers(operand, 's').filter(|them| them.1 == 4));
    let binding = descriptor.and_then(|(first, _)| descriptors.get(&first)).map(|(binding, _)| *binding);
    Some(MemoryAccess { binding, bytes, is_store })
}

/// Bytes that an instruction moves for each invocation, by the end of its name.
fn width(mnemonic: &str) -> Option<u32> {
    let word = mnemonic.rsplit('_').find(|word| !["d16", "hi", "e64", "rtn"].contains(word))?;
    Some(match word {
        "ubyte" | "sbyte" | "byte" | "u8" | "i8" | "b8" => 1,
        "ushort" | "sshort" | "short" | "u16" | "i16" | "b16" => 2,
        "dword" | "b32" | "u32" | "xor" | "or" | "and" | "add" | "cmpswap" | "swap" => 4,
        "dwordx2" | "b64" => 8,
        "dwordx3" | "b96" => 12,
        "dwordx4" | "b128" => 16,
        "dwordx8" | "b256" => 32,
        "dwordx16" | "b512" => 64,
        _ => return None,
    })
}

/// The first register of an operand such as `s[4:7]` or `v3`, and how many.
fn registers(operand: &str, kind: char) -> Option<(u32, u32)> {
    let operand = operand.split_whitespace().next()?.strip_prefix(kind)?;
    match operand.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
        Some(range) => {
            let (first, last) = range.split_once(':')?;
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            Some((first, last.checked_sub(first)? + 1))
        }
        None => Some((operand.parse().ok()?, 1)),
    }
}

/// Notes which registers hold descriptors after an instruction.
fn follow(mnemonic: &str, operands: &[&str], descriptors: &mut Descriptors) {
    // What writes no scalar register changes nothing; nor do stores and comparisons, which only read them.
    let only_reads = ["s_cmp", "s_bitcmp", "s_store", "s_buffer_store", "s_cbranch", "s_waitcnt"];
    let Some((first, count)) = operands.first().and_then(|operand| registers(operand, 's')) else { return };
    if only_reads.iter().any(|name| mnemonic.starts_with(name)) {
        return;
    }
    let is_load = mnemonic.starts_with("s_load_");
    let is_move = mnemonic.starts_with("s_mov_b");
    let source = operands.get(1).and_then(|operand| registers(operand, 's'));
    let offset = operands.get(2).map(|operand| offset(operand));
    let value = |word: u32, descriptors: &Descriptors| match (is_load, is_move, source, offset) {
        (true, _, _, Some(Some(offset))) => {
            Some(((offset + 4 * word) / DESCRIPTOR, (offset / 4 + word) % (DESCRIPTOR / 4)))
        }
        (_, true, Some((from, _)), _) => descriptors.get(&(from + word)).copied(),
        _ => None,
    };
    let values: Vec<_> = (0..count).map(|word| value(word, descriptors)).collect();
    for (register, value) in (first..).zip(values) {
        match value {
            Some(value) => descriptors.insert(register, value),
            None => descriptors.remove(&register),
        };
    }
}

/// The offset of a scalar load, in bytes.
fn offset(operand: &str) -> Option<u32> {
    let operand = operand.split_whitespace().last()?;
    match operand.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if operand == "null" => Some(0),
        None => operand.strip_prefix("offset:").unwrap_or(operand).parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loops of `moments` over four values and over one, as Mesa 22.3.6 compiles them.
    const NAVI21: &str = include_str!("../samples/moments.planes4.tree.navi21.txt");
    const GFX1100: &str = include_str!("../samples/moments.planes4.tree.gfx1100.txt");

    fn load(binding: u32, bytes: u32) -> MemoryAccess {
        MemoryAccess { binding: Some(binding), bytes, is_store: false }
    }

    #[test]
    fn innermost_loops_are_found_with_what_they_load() {
        // Both lie in a third, over blocks.
        for (text, lengths) in [(NAVI21, [145, 52]), (GFX1100, [146, 53])] {
            let listing = Listing::read(text);
            let found: Vec<usize> = listing.loops.iter().map(|range| range.end() - range.start() + 1).collect();
            assert_eq!(found, lengths);
            let of_loop = |i: usize| listing.accesses(listing.loops[i].clone()).collect::<Vec<_>>();
            assert_eq!(of_loop(0), [load(1, 16); 4]);
            assert_eq!(of_loop(1), [load(1, 16)]);
        }
    }

    #[test]
    fn bindings_are_followed_through_registers() {
        let text = "
BB0:
\ts_load_dwordx8 s[8:15], s[2:3], 0x20
\ts_mov_b64 s[4:5], s[12:13]
\ts_mov_b64 s[6:7], s[14:15]
\tbuffer_store_dwordx2 v[1:2], v3, s[8:11], 0 offen
\tbuffer_load_dword v1, v3, s[4:7], 0 offen offset:16
\ts_mov_b32 s4, 0
\tbuffer_load_ushort v1, v3, s[4:7], 0 offen
\ts_buffer_load_dwordx4 s[12:15], s[8:11], null
\tbuffer_atomic_xor v1, v3, s[12:15], 0 offen
\tds_write_b32 v1, v2
";
        let found: Vec<MemoryAccess> = Listing::read(text).all_accesses().collect();
        let of = |binding, bytes, is_store| MemoryAccess { binding, bytes, is_store };
        assert_eq!(
            found,
            [
                of(Some(2), 8, true),
                of(Some(3), 4, false),
                of(None, 2, false),
                of(Some(2), 16, false),
                of(None, 4, true)
            ]
        );
    }

    #[test]
    fn what_is_no_listing_has_no_instructions() {
        for text in ["", "NIR shader:\nvec1 32 ssa_0 = load_const", "BB0:\n/* constant data */\n\ts_nop 0"] {
            assert!(Listing::read(text).instructions.is_empty(), "{text}");
        }
    }
}
