//! [`Contents`]: how the tensors of a checkpoint differ from those wanted. Apart from `checkpoint`, so that `error` can list it.

use std::fmt;

/// How the tensors of a file differ from those wanted: all differences, not just the first. An error where it is not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Names that are wanted and not in the file.
    pub missing: Vec<String>,
    /// Names that are in the file and not wanted.
    pub unexpected: Vec<String>,
    /// Tensors of another type or shape, or of a value that cannot be.
    pub wrong: Vec<WrongTensor>,
}

/// A tensor that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongTensor {
    /// Its name.
    pub name: String,
    /// Type and shape, or value, that it must have.
    pub expected: String,
    /// What it has.
    pub actual: String,
    /// What to do about it, where that is known.
    pub hint: Option<&'static str>,
}

impl Contents {
    pub(crate) fn missing(name: &str) -> Self {
        Self { missing: vec![name.into()], ..Self::default() }
    }

    pub(crate) fn wrong(name: &str, expected: String, actual: String) -> Self {
        Self { wrong: vec![WrongTensor { name: name.into(), expected, actual, hint: None }], ..Self::default() }
    }

    /// The same with what to do about tensors that are wrong.
    pub(crate) fn advising(mut self, hint: &'static str) -> Self {
        self.wrong.iter_mut().for_each(|tensor| tensor.hint = Some(hint));
        self
    }

    /// What to do: whatever is known of the tensors that are wrong, and where that is not all, to look for another mistake.
    fn advice(&self) -> Vec<&'static str> {
        const LOOK: &str = "check the prefix, the number of channels, and whether the file is of this network";
        let hints = self.wrong.iter().map(|tensor| tensor.hint);
        let others = !self.missing.is_empty() || !self.unexpected.is_empty();
        let mut advice: Vec<&str> = hints.chain(others.then_some(None)).map(|hint| hint.unwrap_or(LOOK)).collect();
        advice.sort_unstable_by_key(|&hint| (hint == LOOK, hint));
        advice.dedup();
        advice
    }

    /// Takes over the differences that a result reports, so that one error can tell those of many layers. `None` where it
    /// had any.
    pub fn gather<T>(&mut self, result: Result<T, Self>) -> Option<T> {
        let more = match result {
            Ok(value) => return Some(value),
            Err(more) => more,
        };
        self.missing.extend(more.missing);
        self.unexpected.extend(more.unexpected);
        self.wrong.extend(more.wrong);
        None
    }

    /// Whether there are no differences.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.wrong.is_empty()
    }

    /// An error where there are differences.
    ///
    /// # Errors
    /// Itself.
    pub fn into_result(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the checkpoint holds other tensors than expected")?;
        let wrong =
            |tensor: &WrongTensor| format!("{}, expected {}, got {}", tensor.name, tensor.expected, tensor.actual);
        let wrong: Vec<String> = self.wrong.iter().map(wrong).collect();
        let lists = [("missing", &self.missing, ", "), ("unexpected", &self.unexpected, ", "), ("wrong", &wrong, "; ")];
        for (what, names, separator) in lists.into_iter().filter(|(_, names, _)| !names.is_empty()) {
            write!(f, "; {what}: {}", names.join(separator))?;
        }
        write!(f, "; {}", self.advice().join("; "))
    }
}

impl std::error::Error for Contents {}
