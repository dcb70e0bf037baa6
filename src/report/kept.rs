//! Images of the report before: where there are frames but no store, such as in a clone of a repository, they cannot be drawn
//! anew, and shall not be lost either.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::sweep::Sweep;

/// A figure of images that an earlier report drew.
pub(super) struct Kept {
    /// The name of its files.
    pub(super) slug: String,
    /// Its files, all of which are there.
    pub(super) files: Vec<PathBuf>,
    /// What the page said between `<figure` and `</figure>`, its number left out.
    before: String,
    after: String,
}

impl Kept {
    /// Its part of the page.
    pub(super) fn numbered(&self, number: usize) -> String {
        format!(
            "<figure id=\"figure-{number}\"{}<b>Figure {number}.</b>{}</figure>\n",
            self.before, self.after
        )
    }
}

/// The figures of images in the report in `dir`, as its page has them; those alone whose points the sweep still has.
pub(super) fn pictures(dir: &Path, sweep: &Sweep) -> Vec<Kept> {
    let page = std::fs::read_to_string(dir.join("index.html")).unwrap_or_default();
    let ids: HashSet<&str> = sweep.points.iter().map(|point| point.id.as_str()).collect();
    let figures =
        page.split("<figure id=\"figure-").skip(1).filter_map(|rest| rest.split("</figure>").next());
    let pictures = figures.filter(|figure| figure.contains("<image "));
    pictures.filter_map(|figure| kept(figure, dir)).filter(|kept| has_its_points(kept, &ids)).collect()
}

/// A figure of the page, which begins behind its number.
fn kept(figure: &str, dir: &Path) -> Option<Kept> {
    let (_, rest) = figure.split_once('"')?;
    let (before, rest) = rest.split_once("<b>Figure ")?;
    let (_, after) = rest.split_once("</b>")?;
    let slug = figure.rsplit_once("href=\"figures/")?.1.split('.').next()?;
    let files: Vec<PathBuf> =
        ["svg", "png", "csv"].iter().map(|kind| dir.join("figures").join(format!("{slug}.{kind}"))).collect();
    let is_whole = super::is_inside(Path::new(slug)) && files.iter().all(|file| file.is_file());
    is_whole.then(|| Kept {
        slug: slug.to_owned(),
        files,
        before: before.to_owned(),
        after: after.to_owned(),
    })
}

/// Whether the points that the data behind the figure name, if any, are all in the sweep: images of a sweep that was run
/// anew with other settings are not its own.
fn has_its_points(kept: &Kept, ids: &HashSet<&str>) -> bool {
    let Some(csv) = kept.files.last().and_then(|file| std::fs::read_to_string(file).ok()) else {
        return false;
    };
    let mut lines = csv.lines();
    let Some(place) = lines.next().and_then(|head| head.split(',').position(|name| name == "point")) else {
        return true;
    };
    lines.all(|line| fields(line).nth(place).is_some_and(|id| ids.contains(id.as_str())))
}

/// The cells of a line of CSV, which may be quoted.
fn fields(line: &str) -> impl Iterator<Item = String> {
    let (mut cells, mut quoted) = (vec![String::new()], false);
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            _ => cells.last_mut().into_iter().for_each(|cell| cell.push(letter)),
        }
    }
    cells.into_iter()
}
