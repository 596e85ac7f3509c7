//! [`Foreign`]: files of other kinds that people take for `.safetensors` or `.npy` files, told by how they begin.

/// A file of another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// What it is.
    pub found: &'static str,
    /// How to get what was wanted.
    pub hint: &'static str,
}

impl Foreign {
    /// Bytes of a file's beginning that [`Foreign::recognize`] looks at.
    pub const HEAD: usize = 512;

    /// A file of PyTorch's own.
    pub const PICKLE: Self = Self {
        found: "a PyTorch file (a pickle, as torch.save writes it)",
        hint: "convert its state_dict: python3 -c \"import torch, safetensors.torch as s; \
               s.save_file(torch.load('in.pt', weights_only=True), 'out.safetensors')\"",
    };
    /// An archive of numpy.
    pub const NPZ: Self = Self {
        found: "an archive of numpy arrays (.npz)",
        hint: "save each array alone: numpy.save('x.npy', numpy.load('x.npz')['x'])",
    };
    const LFS: Self = Self {
        found: "a Git LFS pointer, a few lines of text that stand for the file itself",
        hint: "fetch the file: run `git lfs pull` in its repository",
    };
    const ZIP: Self = Self { found: "a zip archive", hint: "unpack it first" };
    const HDF5: Self = Self {
        found: "an HDF5 file, as Keras writes it",
        hint: "load it there and write its weights with safetensors.numpy.save_file or numpy.save",
    };
    const HTML: Self = Self { found: "an HTML page", hint: "download the file itself, not the page that shows it" };
    const NPY: Self = Self { found: "a numpy array (.npy)", hint: "name it with the ending .npy, where that is taken" };

    /// What a file is that begins with `head`; `None` where it is of no kind that is known here. A `.safetensors` file is none.
    pub fn recognize(head: &[u8]) -> Option<Self> {
        let starts = |magic: &[u8]| head.starts_with(magic);
        let text = head.trim_ascii_start();
        match () {
            () if starts(b"version https://git-lfs") => Some(Self::LFS),
            () if starts(b"PK\x03\x04") => Some(in_zip(head)),
            // A pickle without an archive; as the length of a header it would be larger than any.
            () if starts(b"\x80")
                && matches!(head.get(1..8), Some([2..=5, rest @ ..]) if rest.iter().any(|&byte| byte != 0)) =>
            {
                Some(Self::PICKLE)
            }
            () if starts(b"\x89HDF\r\n") => Some(Self::HDF5),
            () if starts(b"\x93NUMPY") => Some(Self::NPY),
            () if ["<!doctype html", "<html"].iter().any(|tag| begins_in_any_case(text, tag)) => Some(Self::HTML),
            () => None,
        }
    }
}

fn begins_in_any_case(text: &[u8], tag: &str) -> bool {
    text.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag.as_bytes()))
}

/// Whose archive it is, by the name of its first file.
fn in_zip(head: &[u8]) -> Foreign {
    let length = head.get(26..).and_then(<[u8]>::first_chunk).map_or(0, |&bytes| u16::from_le_bytes(bytes).into());
    let name = head.get(30..30 + length).unwrap_or_default();
    match () {
        () if name.ends_with(b".npy") => Foreign::NPZ,
        () if name.ends_with(b"/data.pkl") || name.ends_with(b"/.format_version") || name.ends_with(b"/version") => {
            Foreign::PICKLE
        }
        () => Foreign::ZIP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zip(name: &str) -> Vec<u8> {
        [b"PK\x03\x04", &[0; 22][..], &(name.len() as u16).to_le_bytes(), &[0; 2], name.as_bytes(), b"data"].concat()
    }

    #[test]
    fn tells_files_by_their_beginning() {
        let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
        for (head, expected) in [
            (&lfs[..], Some(Foreign::LFS)),
            (&zip("archive/data.pkl"), Some(Foreign::PICKLE)),
            (&zip("resnet18/data.pkl"), Some(Foreign::PICKLE)),
            (&zip("x.npy"), Some(Foreign::NPZ)),
            (&zip("readme.txt"), Some(Foreign::ZIP)),
            (b"PK\x03\x04", Some(Foreign::ZIP)),
            (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", Some(Foreign::PICKLE)),
            (b"\x89HDF\r\n\x1a\n", Some(Foreign::HDF5)),
            (b"\x93NUMPY\x01\x00", Some(Foreign::NPY)),
            (b"\n<!DOCTYPE html><html>", Some(Foreign::HTML)),
            (b"", None),
            (b"\x80", None),
            // A header of 640 bytes.
            (b"\x80\x02\x00\x00\x00\x00\x00\x00{\"x\":", None),
            (b"text", None),
        ] {
            assert_eq!(Foreign::recognize(head), expected, "{head:?}");
        }
    }
}
