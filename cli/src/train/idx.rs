//! Reads IDX files, the format of MNIST: a magic number, big-endian dimensions, then unsigned bytes; plain or gzip.
//!
//! A header is a claim. It is held against the size of the file before anything is read, and the bytes are read into
//! memory that grows with what really comes, so that no file makes this reader allocate more than it delivers.

use flate2::read::GzDecoder;
use std::io::{self, Read};

/// More items than any relative of MNIST has; a file that claims more is refused.
const MAX_ITEMS: u64 = 1 << 20;

/// A deflate stream unpacks to at most 1032 times its size.
const MAX_DEFLATE_RATIO: u64 = 1032;

/// The first two bytes of a gzip file.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Why a file is no IDX file of the kind wanted.
#[derive(Debug, thiserror::Error)]
pub enum IdxError {
    /// The file is empty.
    #[error("{file}: expected an IDX file, found an empty file")]
    Empty {
        /// Which file.
        file: String,
    },
    /// The file starts with another magic number.
    #[error("{file}: expected the magic number {expected:#010x} of an IDX file, found {found:#010x}")]
    Magic {
        /// Which file.
        file: String,
        /// The magic number of unsigned bytes in the rank wanted.
        expected: u32,
        /// The one in the file.
        found: u32,
    },
    /// The items have other dimensions.
    #[error("{file}: expected items of {expected:?}, found {found:?}")]
    Dimensions {
        /// Which file.
        file: String,
        /// Dimensions of one item, wanted.
        expected: Vec<u32>,
        /// Dimensions of one item, in the header.
        found: Vec<u32>,
    },
    /// The header claims no items, or too many.
    #[error("{file}: expected 1 to {MAX_ITEMS} items, found {found} in the header")]
    Items {
        /// Which file.
        file: String,
        /// The number in the header.
        found: u64,
    },
    /// The file ends early, or goes on after its last item.
    #[error("{file}: expected {expected} bytes according to the header, found {found}")]
    Length {
        /// Which file.
        file: String,
        /// Bytes that the header announces, itself included.
        expected: u64,
        /// What there is.
        found: FileLength,
    },
    /// Reading or unpacking failed.
    #[error("{file}: cannot be read: {source}")]
    Io {
        /// Which file.
        file: String,
        /// What the system or the decoder said.
        source: io::Error,
    },
}

/// The length of a file, as far as it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileLength {
    /// Exactly so many bytes.
    Exactly(u64),
    /// No more than so many bytes.
    AtMost(u64),
    /// At least one byte more than expected.
    More,
}

impl std::fmt::Display for FileLength {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FileLength::Exactly(bytes) => write!(f, "{bytes}"),
            FileLength::AtMost(bytes) => write!(f, "at most {bytes}"),
            FileLength::More => f.write_str("more"),
        }
    }
}

/// Reads `raw`, an IDX file of unsigned bytes whose items have the dimensions `item`. `file` names it in errors.
///
/// # Errors
/// [`IdxError`] for whatever is not exactly such a file.
pub fn parse(file: &str, raw: &[u8], item: &[u32]) -> Result<Vec<u8>, IdxError> {
    if raw.is_empty() {
        return Err(IdxError::Empty { file: file.into() });
    }
    let size = raw.len() as u64;
    if raw.starts_with(&GZIP_MAGIC) {
        read(file, GzDecoder::new(raw), FileLength::AtMost(size.saturating_mul(MAX_DEFLATE_RATIO)), item)
    } else {
        read(file, raw, FileLength::Exactly(size), item)
    }
}

/// Reads header and items from a stream whose length is bounded by `available`.
fn read(file: &str, mut stream: impl Read, available: FileLength, item: &[u32]) -> Result<Vec<u8>, IdxError> {
    let io = |source| IdxError::Io { file: file.into(), source };
    let header_bytes = 4 * (2 + item.len() as u64);
    let mut header = Vec::new();
    stream.by_ref().take(header_bytes).read_to_end(&mut header).map_err(io)?;
    let length = |expected, found| IdxError::Length { file: file.into(), expected, found };
    if (header.len() as u64) < header_bytes {
        return Err(length(header_bytes, FileLength::Exactly(header.len() as u64)));
    }
    let items = check_header(file, &header, item)?;
    // Below 2^20 items of at most 2^32 bytes: MAX_ITEMS keeps this product far from overflow.
    let item_bytes: u64 = item.iter().map(|&dim| u64::from(dim)).product();
    let expected = header_bytes + items * item_bytes;
    match available {
        FileLength::Exactly(bytes) if bytes != expected => return Err(length(expected, available)),
        FileLength::AtMost(bytes) if bytes < expected => return Err(length(expected, available)),
        _ => {}
    }
    let mut data = Vec::new();
    // One byte more than expected: it shows whether the stream ends there, and makes gzip verify its checksum.
    stream.take(items * item_bytes + 1).read_to_end(&mut data).map_err(io)?;
    let found = header_bytes + data.len() as u64;
    match found.cmp(&expected) {
        std::cmp::Ordering::Less => Err(length(expected, FileLength::Exactly(found))),
        std::cmp::Ordering::Equal => Ok(data),
        std::cmp::Ordering::Greater => Err(length(expected, FileLength::More)),
    }
}

/// Checks the magic number and the dimensions of an item; returns the number of items.
fn check_header(file: &str, header: &[u8], item: &[u32]) -> Result<u64, IdxError> {
    let words: Vec<u32> = header.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect();
    // 0x08 says unsigned bytes, the last byte counts the dimensions.
    let expected = 0x0800 | (1 + item.len() as u32);
    match words.as_slice() {
        [found, ..] if *found != expected => Err(IdxError::Magic { file: file.into(), expected, found: *found }),
        [_, _, found @ ..] if found != item => {
            Err(IdxError::Dimensions { file: file.into(), expected: item.into(), found: found.into() })
        }
        [_, items, ..] if (1..=MAX_ITEMS).contains(&u64::from(*items)) => Ok(u64::from(*items)),
        [_, items, ..] => Err(IdxError::Items { file: file.into(), found: u64::from(*items) }),
        _ => Err(IdxError::Empty { file: file.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    /// An IDX file with the given words as its header.
    fn file(header: &[u32], data: &[u8]) -> Vec<u8> {
        header.iter().flat_map(|word| word.to_be_bytes()).chain(data.iter().copied()).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn refuse(bytes: &[u8]) -> IdxError {
        parse("f", bytes, &[2, 3]).unwrap_err()
    }

    #[test]
    fn reads_plain_and_gzip() {
        let data: Vec<u8> = (0..12).collect();
        let plain = file(&[0x803, 2, 2, 3], &data);
        assert_eq!(parse("f", &plain, &[2, 3]).unwrap(), data);
        assert_eq!(parse("f", &gzip(&plain), &[2, 3]).unwrap(), data);
        assert_eq!(parse("f", &file(&[0x801, 3], &[7, 8, 9]), &[]).unwrap(), [7, 8, 9]);
    }

    #[test]
    fn refuses_other_headers() {
        assert!(matches!(refuse(&[]), IdxError::Empty { .. }));
        let magic = refuse(&file(&[0x801, 2, 2, 3], &[0; 12]));
        assert!(matches!(magic, IdxError::Magic { expected: 0x803, found: 0x801, .. }));
        assert_eq!(magic.to_string(), "f: expected the magic number 0x00000803 of an IDX file, found 0x00000801");
        assert!(matches!(refuse(&file(&[0x803, 2, 3, 2], &[0; 12])), IdxError::Dimensions { .. }));
        assert!(matches!(refuse(&file(&[0x803, 0, 2, 3], &[])), IdxError::Items { found: 0, .. }));
    }

    #[test]
    fn refuses_other_lengths() {
        for bytes in [&[0u8][..], &[0, 0, 8], &file(&[0x803, 1, 2], &[])] {
            assert!(matches!(refuse(bytes), IdxError::Length { expected: 16, .. }), "{bytes:?}");
        }
        for pack in [|bytes: &[u8]| bytes.to_vec(), gzip] {
            for (length, found) in [(11, FileLength::Exactly(27)), (13, FileLength::More)] {
                let error = refuse(&pack(&file(&[0x803, 2, 2, 3], &vec![0; length])));
                assert!(matches!(error, IdxError::Length { expected: 28, .. }), "{error} {found}");
            }
        }
    }

    #[test]
    fn refuses_huge_claims_before_reading() {
        let header = file(&[0x803, u32::MAX, 2, 3], &[0; 12]);
        assert!(matches!(refuse(&header), IdxError::Items { .. }));
        let million = file(&[0x803, 1_000_000, 2, 3], &[0; 12]);
        assert!(matches!(refuse(&million), IdxError::Length { found: FileLength::Exactly(28), .. }));
        assert!(matches!(refuse(&gzip(&million)), IdxError::Length { found: FileLength::AtMost(_), .. }));
    }

    #[test]
    fn refuses_damaged_gzip() {
        let packed = gzip(&file(&[0x803, 2, 2, 3], &(0..12).collect::<Vec<u8>>()));
        for cut in 2..packed.len() {
            assert!(parse("f", &packed[..cut], &[2, 3]).is_err(), "cut at {cut}");
        }
        let mut flipped = packed.clone();
        let checksum = packed.len() - 5;
        flipped[checksum] ^= 1;
        assert!(matches!(refuse(&flipped), IdxError::Io { .. }));
    }
}
