//! [`Header`]: what a `.safetensors` file says of its tensors, checked against the file's length before it is believed.

use super::foreign::Foreign;
use crate::error::{Error, Result};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use std::collections::HashSet;
use std::fmt;
use std::io::Read;
use std::marker::PhantomData;
use std::ops::Range;

/// Bytes of the longest header that is read: the format's own limit.
const LONGEST: u64 = 100_000_000;

/// The header of a `.safetensors` file.
#[derive(Clone, Debug)]
pub struct Header {
    metadata: Metadata,
    /// Bytes before the tensors.
    length: u64,
}

/// A tensor as the header describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape; none for a scalar.
    pub shape: Vec<usize>,
    /// Its bytes in the file.
    pub range: Range<u64>,
}

impl Header {
    /// Reads the header of a file of `size` bytes in all.
    ///
    /// # Errors
    /// [`Error::ForeignFile`] for a file of another kind that is known; [`Error::Checkpoint`] for any other that is no
    /// `.safetensors` file, or only a part of one, or has a name twice.
    pub fn read(file: &mut impl Read, size: u64) -> Result<Self> {
        let mut head = Vec::new();
        let failed = |error: std::io::Error| damaged(format!("that cannot be read: {error}"));
        file.by_ref().take(Foreign::HEAD as u64).read_to_end(&mut head).map_err(failed)?;
        if let Some(Foreign { found, hint }) = Foreign::recognize(&head) {
            return Err(Error::ForeignFile { found, hint });
        }
        let cut = || damaged(format!("of {size} bytes, less than its header announces"));
        let length = u64::from_le_bytes(*head.first_chunk().ok_or_else(cut)?);
        if length > LONGEST.min(size.saturating_sub(8)) {
            return Err(cut());
        }
        let missing = (8 + length).saturating_sub(head.len() as u64);
        file.by_ref().take(missing).read_to_end(&mut head).map_err(failed)?;
        let text = head.get(8..8 + length as usize).ok_or_else(cut)?;
        let fault = |error| damaged(format!("with this fault in its header: {error}"));
        serde_json::from_slice::<Distinct<Distinct<IgnoredAny>>>(text).map_err(fault)?;
        let metadata: Metadata = serde_json::from_slice(text).map_err(fault)?;
        let (announced, actual) = (metadata.data_len() as u64, size - 8 - length);
        match announced == actual {
            true => Ok(Self { metadata, length: 8 + length }),
            false => Err(damaged(format!("with {actual} bytes of tensors where its header announces {announced}"))),
        }
    }

    /// Names of all tensors, in order.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.metadata.offset_keys();
        names.sort();
        names
    }

    /// The tensor of a name.
    pub fn entry(&self, name: &str) -> Option<Entry> {
        let TensorInfo { dtype, shape, data_offsets: (start, end) } = self.metadata.info(name)?;
        let range = self.length + *start as u64..self.length + *end as u64;
        Some(Entry { dtype: *dtype, shape: shape.clone(), range })
    }

    /// A text of the file's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.texts().find(|(known, _)| *known == key).map(|(_, text)| text)
    }

    /// All texts of the file's metadata by their keys, in no order.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.metadata.metadata().iter().flatten().map(|(key, text)| (key.as_str(), text.as_str()))
    }
}

fn damaged(found: String) -> Error {
    Error::Checkpoint { found }
}

/// A JSON object that has no key twice, and whose values are `V`. The last of several would be taken in silence.
struct Distinct<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Distinct<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self(PhantomData))
    }
}

impl<'de, V: Deserialize<'de>> Visitor<'de> for Distinct<V> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<V>()?;
            if let Some(twice) = seen.replace(key) {
                return Err(A::Error::custom(format!("{twice:?} comes twice")));
            }
        }
        Ok(self)
    }
}
