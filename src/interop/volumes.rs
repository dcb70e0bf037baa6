//! Volumes and label maps in files, singly or in folders: NIfTI-1 and HDF5.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use hdf5_pure::FileBuilder;

use crate::data::nifti::{self, Header};
use crate::data::read_hdf5;
use crate::store::files;

/// How a volume is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// NIfTI-1: `.nii`, `.nii.gz`, `.hdr` + `.img`.
    Nifti,
    /// HDF5: `.h5`, `.hdf5`.
    Hdf5,
}

/// Endings of names, with what they mean; the longest first.
const ENDINGS: [(&str, Format); 6] = [
    (".nii.gz", Format::Nifti),
    (".hdr.gz", Format::Nifti),
    (".nii", Format::Nifti),
    (".hdr", Format::Nifti),
    (".hdf5", Format::Hdf5),
    (".h5", Format::Hdf5),
];
/// What the names of label maps end in where those of their images do not.
pub const LABEL_MARKS: [&str; 5] = ["_gt", "_label", "_labels", "_seg", "_mask"];
/// The dataset of images in SSL4MIS's HDF5 files.
const IMAGE: &str = "image";
/// The dataset of label maps.
const LABEL: &str = "label";

/// The volume's name and format by its path; none where it is no volume.
pub fn named(path: &Path) -> Option<(String, Format)> {
    let name = path.file_name()?.to_str()?;
    let lower = name.to_ascii_lowercase();
    let (ending, format) = ENDINGS.into_iter().find(|(ending, _)| lower.ends_with(ending))?;
    let stem = &name[..name.len() - ending.len()];
    (!stem.is_empty()).then(|| (stem.to_owned(), format))
}

/// The volumes at `path`: itself, or those that lie directly in the folder, by name.
///
/// # Errors
/// Where there is none, or two of one name.
pub fn list(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        ensure!(path.exists(), "{} does not exist", path.display());
        ensure!(
            named(path).is_some(),
            "{} is no volume by its name: .nii, .nii.gz, .hdr, .h5 and .hdf5 are read",
            path.display()
        );
        return Ok(vec![path.to_owned()]);
    }
    let entries =
        std::fs::read_dir(path).with_context(|| format!("cannot read the folder {}", path.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read the folder {}", path.display()))?.path();
        if entry.is_file()
            && let Some((name, _)) = named(&entry)
        {
            found.push((name, entry));
        }
    }
    found.sort();
    if let Some(pair) = found.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        bail!(
            "{} has two volumes of the name {}: {} and {}; keep one",
            path.display(),
            pair[0].0,
            pair[0].1.display(),
            pair[1].1.display()
        );
    }
    ensure!(!found.is_empty(), "{} holds no volume (.nii, .nii.gz, .hdr, .h5, .hdf5)", path.display());
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// A volume with all its time points.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Where it was read from.
    pub path: PathBuf,
    /// Slices, rows, columns of each time point.
    pub shape: [usize; 3],
    /// Time points.
    pub frames: usize,
    /// Columns fastest, then rows, slices, time points.
    pub voxels: Vec<f32>,
    /// The distance of slices, rows and columns in mm, where the file tells it.
    pub spacing: Option<[f64; 3]>,
    /// The header, of a NIfTI file.
    header: Option<Header>,
}

impl Volume {
    /// Reads an image.
    ///
    /// # Errors
    /// Name the file and what is wrong with it.
    pub fn image(path: &Path) -> Result<Self> {
        Self::read(path, IMAGE)
    }

    /// Reads a label map; its voxels may still be anything ([`Self::labels`]).
    ///
    /// # Errors
    /// As [`Self::image`].
    pub fn label_map(path: &Path) -> Result<Self> {
        Self::read(path, LABEL)
    }

    fn read(path: &Path, dataset: &str) -> Result<Self> {
        let (_, format) =
            named(path).with_context(|| format!("{} is no volume by its name", path.display()))?;
        if format == Format::Nifti {
            let volume = nifti::read(path)?;
            let [x, y, z] = volume.spacing.map(f64::from);
            return Ok(Self {
                path: volume.path,
                shape: [volume.dims[2], volume.dims[1], volume.dims[0]],
                frames: volume.dims[3],
                voxels: volume.voxels,
                spacing: Some([z, y, x]),
                header: Some(volume.header),
            });
        }
        let (axes, voxels) = read_hdf5(path, dataset)?;
        ensure!(!voxels.is_empty(), "{} has no number in `{dataset}` ({axes:?})", path.display());
        let (frames, shape) = match *axes.as_slice() {
            [rows, columns] => (1, [1, rows, columns]),
            [slices, rows, columns] => (1, [slices, rows, columns]),
            [frames, slices, rows, columns] => (frames, [slices, rows, columns]),
            _ => bail!(
                "{} has a {dataset} of {} axes: slices, rows and columns are needed",
                path.display(),
                axes.len()
            ),
        };
        Ok(Self { path: path.to_owned(), shape, frames, voxels, spacing: None, header: None })
    }

    /// The voxels as labels.
    ///
    /// # Errors
    /// Where a voxel is no whole number in 0..=255: names the file, the place and the value.
    pub fn labels(&self) -> Result<Vec<u8>> {
        let wrong = |&value: &f32| !((0.0..=255.0).contains(&value) && value.fract() == 0.0);
        if let Some(index) = self.voxels.iter().position(wrong) {
            bail!(
                "{} has the value {} at {}: a label map holds whole numbers from 0 to 255",
                self.path.display(),
                self.voxels[index],
                self.place(index)
            );
        }
        Ok(self.voxels.iter().map(|&value| value as u8).collect())
    }

    /// Where voxel `index` lies, for people; slices and time points are counted from 1.
    pub fn place(&self, index: usize) -> String {
        let [slices, rows, columns] = self.shape;
        let plane = rows * columns;
        let place = format!(
            "slice {}, row {}, column {}",
            index / plane % slices + 1,
            index / columns % rows,
            index % columns
        );
        if self.frames == 1 { place } else { format!("time point {}, {place}", index / (plane * slices) + 1) }
    }

    /// Writes `labels`, as many as there are voxels, with this volume's geometry: as NIfTI, or as the dataset `label` of
    /// an HDF5 file, by the name of `path`.
    ///
    /// # Errors
    /// Where the name is of neither, or the file cannot be written; names it.
    pub fn write_labels(&self, path: &Path, labels: &[u8]) -> Result<()> {
        let format = named(path).map(|(_, format)| format);
        let [slices, rows, columns] = self.shape;
        match format {
            Some(Format::Nifti) => {
                let dims = [columns, rows, slices, self.frames];
                let header = match &self.header {
                    Some(header) => header.clone(),
                    None => Header::new(
                        dims,
                        self.spacing.map_or([1.0; 3], |[z, y, x]| [x as f32, y as f32, z as f32]),
                    )?,
                };
                nifti::write_labels(path, &header, labels)
            }
            Some(Format::Hdf5) => {
                let mut axes = vec![slices as u64, rows as u64, columns as u64];
                let mut chunk = vec![1, rows as u64, columns as u64];
                if self.frames > 1 {
                    axes.insert(0, self.frames as u64);
                    chunk.insert(0, 1);
                }
                let mut builder = FileBuilder::new();
                builder
                    .create_dataset(LABEL)
                    .with_u8_data(labels)
                    .with_shape(&axes)
                    .with_chunks(&chunk)
                    .with_deflate(6);
                let bytes =
                    builder.finish().with_context(|| format!("cannot put {} together", path.display()))?;
                files::write_atomic(path, bytes)
            }
            None => bail!("{} is no volume by its name: .nii, .nii.gz and .h5 are written", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(voxels: Vec<f32>) -> Volume {
        let shape = [2, 3, 4];
        let frames = voxels.len() / 24;
        Volume { path: "maps/a.nii".into(), shape, frames, voxels, spacing: None, header: None }
    }

    #[test]
    fn labels_are_whole_numbers() {
        assert_eq!(volume(vec![3.0; 24]).labels().unwrap(), [3; 24]);
        for (wrong, text) in [(1.5, "1.5"), (-1.0, "-1"), (256.0, "256"), (f32::NAN, "NaN")] {
            let mut voxels = vec![0.0; 48];
            voxels[24 + 12 + 4 + 1] = wrong;
            let error = volume(voxels).labels().unwrap_err().to_string();
            let wanted = format!("maps/a.nii has the value {text} at time point 2, slice 2, row 1, column 1");
            assert!(error.contains(&wanted), "{error}");
        }
    }

    #[test]
    fn volumes_are_known_by_their_names() {
        let found = |name: &str| named(Path::new(name));
        assert_eq!(found("d/a.b.nii.gz"), Some(("a.b".into(), Format::Nifti)));
        assert_eq!(found("A.NII"), Some(("A".into(), Format::Nifti)));
        assert_eq!(found("patient001_frame01.h5"), Some(("patient001_frame01".into(), Format::Hdf5)));
        for other in [".nii", "a.img", "a.png", "nii", "a.gz"] {
            assert_eq!(found(other), None, "{other}");
        }
    }

    #[test]
    fn a_folder_gives_its_volumes_once_each() {
        let dir = tempfile::tempdir().unwrap();
        let touch = |name: &str| files::write_atomic(dir.path().join(name), "").unwrap();
        assert!(list(dir.path()).unwrap_err().to_string().contains("holds no volume"));
        ["b.nii", "a.h5", "notes.txt", "c.img"].into_iter().for_each(touch);
        let names: Vec<_> = list(dir.path()).unwrap().iter().map(|path| named(path).unwrap().0).collect();
        assert_eq!(names, ["a", "b"]);
        touch("b.nii.gz");
        assert!(list(dir.path()).unwrap_err().to_string().contains("two volumes of the name b"));
        assert!(
            list(&dir.path().join("notes.txt")).unwrap_err().to_string().contains("no volume by its name")
        );
        assert!(list(&dir.path().join("none.nii")).unwrap_err().to_string().contains("does not exist"));
    }

    #[test]
    fn damaged_hdf5_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.h5");
        files::write_atomic(&path, "no HDF5").unwrap();
        assert!(
            format!("{:#}", Volume::image(&path).unwrap_err())
                .contains("a.h5: fetch it again if it is damaged")
        );
        volume(vec![1.0; 24]).write_labels(&path, &[1; 24]).unwrap();
        assert!(format!("{:#}", Volume::image(&path).unwrap_err()).contains("a.h5 has no dataset `image`"));
        assert_eq!(Volume::label_map(&path).unwrap().shape, [2, 3, 4]);
    }
}
