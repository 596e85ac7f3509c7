//! MNIST: the sample that ships with the tool, or the four full files in a directory.

use super::idx::{self, IdxError};
use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Width and height of an image.
pub const SIDE: u32 = 28;
/// Values per image.
pub const PIXELS: usize = (SIDE * SIDE) as usize;
/// Number of classes.
pub const CLASSES: usize = 10;

/// More bytes than the largest file that the reader accepts.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// A file of the sample: name and content.
macro_rules! sample {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../../data/mnist/", $name)).as_slice())
    };
}

/// Why the data cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file is not what it should be.
    #[error(transparent)]
    Idx(#[from] IdxError),
    /// The directory lacks one of the four files.
    #[error("{}: expected one of {}, found none of them", directory.display(), names.join(", "))]
    Missing {
        /// Where the file was looked for.
        directory: PathBuf,
        /// The names that it may have.
        names: Vec<String>,
    },
    /// A file exists and cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is larger than any that could be meant.
    #[error("{}: expected at most {MAX_FILE_BYTES} bytes, found more", file.display())]
    TooLarge {
        /// Which file.
        file: PathBuf,
    },
    /// Images and labels do not belong together.
    #[error("{labels_file}: expected {images} labels, one for each image in {images_file}, found {labels}")]
    Counts {
        /// The file of the images.
        images_file: String,
        /// How many it holds.
        images: usize,
        /// The file of the labels.
        labels_file: String,
        /// How many it holds.
        labels: usize,
    },
    /// A label names no class.
    #[error("{file}: expected labels 0 to 9, found {found} at position {position}")]
    Label {
        /// Which file.
        file: String,
        /// Where, from 0.
        position: usize,
        /// The label.
        found: u8,
    },
}

/// Images and their labels.
#[derive(Debug)]
pub struct Images {
    /// `PIXELS` bytes per image.
    pub pixels: Vec<u8>,
    /// One class per image, below `CLASSES`.
    pub labels: Vec<u8>,
}

impl Images {
    /// Reads a pair of IDX files, each a name for errors and the bytes of the file.
    fn parse(images: (&str, &[u8]), labels: (&str, &[u8])) -> Result<Self, DataError> {
        let pixels = idx::parse(images.0, images.1, &[SIDE, SIDE])?;
        let classes = idx::parse(labels.0, labels.1, &[])?;
        if pixels.len() / PIXELS != classes.len() {
            return Err(DataError::Counts {
                images_file: images.0.into(),
                images: pixels.len() / PIXELS,
                labels_file: labels.0.into(),
                labels: classes.len(),
            });
        }
        match classes.iter().position(|&label| usize::from(label) >= CLASSES) {
            Some(position) => Err(DataError::Label { file: labels.0.into(), position, found: classes[position] }),
            None => Ok(Self { pixels, labels: classes }),
        }
    }

    /// Number of images.
    pub fn count(&self) -> usize {
        self.labels.len()
    }
}

/// A training set and a test set.
#[derive(Debug)]
pub struct Mnist {
    /// Where it comes from, for people.
    pub source: String,
    /// What is trained on.
    pub train: Images,
    /// What accuracy is measured on.
    pub test: Images,
}

impl Mnist {
    /// The four files in `directory`, or the shipped sample.
    ///
    /// # Errors
    /// [`DataError`] for a file that is missing, cannot be read or is not what its name says.
    pub fn load(directory: Option<&Path>) -> Result<Self, DataError> {
        match directory {
            Some(directory) => Self::from_directory(directory),
            None => Self::sample(),
        }
    }

    /// Every 6th training image and every 5th test image; see data/README.md.
    fn sample() -> Result<Self, DataError> {
        Ok(Self {
            source: "shipped sample of MNIST".into(),
            train: Images::parse(sample!("train-10k-images-idx3-ubyte.gz"), sample!("train-10k-labels-idx1-ubyte.gz"))?,
            test: Images::parse(sample!("test-2k-images-idx3-ubyte.gz"), sample!("test-2k-labels-idx1-ubyte.gz"))?,
        })
    }

    /// The files as they are distributed, plain or gzip, with '-' or '.' before "idx".
    fn from_directory(directory: &Path) -> Result<Self, DataError> {
        let pair = |set: &str| -> Result<Images, DataError> {
            let (images, image_bytes) = find(directory, &format!("{set}-images"), 3)?;
            let (labels, label_bytes) = find(directory, &format!("{set}-labels"), 1)?;
            Images::parse((&images.display().to_string(), &image_bytes), (&labels.display().to_string(), &label_bytes))
        };
        Ok(Self { source: directory.display().to_string(), train: pair("train")?, test: pair("t10k")? })
    }
}

/// The first file of `directory` that has one of the usual names, with its bytes.
fn find(directory: &Path, stem: &str, rank: u32) -> Result<(PathBuf, Vec<u8>), DataError> {
    let names: Vec<String> = ["-", "."]
        .into_iter()
        .flat_map(|dot| ["", ".gz"].map(|end| format!("{stem}{dot}idx{rank}-ubyte{end}")))
        .collect();
    for name in &names {
        let file = directory.join(name);
        match read(&file) {
            Ok(bytes) if bytes.len() as u64 > MAX_FILE_BYTES => return Err(DataError::TooLarge { file }),
            Ok(bytes) => return Ok((file, bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(DataError::Read { file, source }),
        }
    }
    Err(DataError::Missing { directory: directory.into(), names })
}

/// The bytes of a file, one more than `MAX_FILE_BYTES` at most: an endless file must not fill the memory.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IDX files with `images` black images and the given labels.
    fn files(images: u32, labels: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let header = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
        let mut image_file = header(&[0x803, images, SIDE, SIDE]);
        image_file.resize(16 + images as usize * PIXELS, 0);
        let mut label_file = header(&[0x801, labels.len() as u32]);
        label_file.extend(labels);
        (image_file, label_file)
    }

    /// A new directory that only this test uses.
    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("bn-train-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn the_sample_is_whole() {
        let mnist = Mnist::load(None).unwrap();
        assert_eq!((mnist.train.count(), mnist.test.count()), (10_000, 2_000));
        for class in 0..CLASSES as u8 {
            let share = mnist.train.labels.iter().filter(|&&label| label == class).count();
            assert!((900..1150).contains(&share), "class {class}: {share}");
        }
        // The first training image of MNIST is a five.
        assert_eq!(mnist.train.labels[0], 5);
        assert!(mnist.train.pixels[..PIXELS].contains(&255));
    }

    #[test]
    fn refuses_files_that_do_not_belong_together() {
        let (images, labels) = files(3, &[1, 2]);
        let error = Images::parse(("i", &images), ("l", &labels)).unwrap_err();
        assert_eq!(error.to_string(), "l: expected 3 labels, one for each image in i, found 2");
        let (images, labels) = files(2, &[1, 10]);
        let error = Images::parse(("i", &images), ("l", &labels)).unwrap_err();
        assert_eq!(error.to_string(), "l: expected labels 0 to 9, found 10 at position 1");
    }

    #[test]
    fn reads_a_directory_under_both_spellings() {
        let path = directory("both");
        let (images, labels) = files(2, &[3, 4]);
        fs::write(path.join("train-images-idx3-ubyte"), &images).unwrap();
        fs::write(path.join("train-labels.idx1-ubyte"), &labels).unwrap();
        fs::write(path.join("t10k-images.idx3-ubyte"), &images).unwrap();
        let missing = Mnist::load(Some(&path)).unwrap_err();
        assert!(missing.to_string().contains("t10k-labels-idx1-ubyte.gz"), "{missing}");
        fs::write(path.join("t10k-labels-idx1-ubyte"), &labels).unwrap();
        let mnist = Mnist::load(Some(&path)).unwrap();
        assert_eq!((mnist.train.labels, mnist.test.count()), (vec![3, 4], 2));
        fs::write(path.join("t10k-images.idx3-ubyte"), &images[..100]).unwrap();
        let short = Mnist::load(Some(&path)).unwrap_err();
        assert!(short.to_string().ends_with("expected 1584 bytes according to the header, found 100"), "{short}");
        fs::remove_dir_all(path).unwrap();
    }
}
