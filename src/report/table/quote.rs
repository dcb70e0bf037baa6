//! Published values beside the measured ones.

use super::super::labels::Metric;
use super::super::published::{Library, Row as Published};
use super::super::sweep::Group;
use super::build::{Frame, Wanted};
use super::{Cell, Column, Holds, Quote, Row, Table};
use crate::spec::report::Published as Choice;

/// The metric of which sources say something whatever the data.
const PARAMETERS: &str = "parameters";

/// The published rows of a table.
pub(super) struct Quotes<'a> {
    /// For each row of the table, those that say the same.
    beside: Vec<Vec<&'a Published>>,
    /// For each row of the table, the parameters in millions that are published, with their sources.
    parameters: Vec<Vec<(f64, String)>>,
    /// Rows of methods that were not run: their block and what is published.
    others: Vec<(usize, Vec<&'a Published>)>,
    /// For each column of published values, its values for [`Self::others`].
    other_cells: Vec<Vec<Cell>>,
    /// Sources in the order in which they are first needed.
    sources: Vec<String>,
    contradictions: Vec<String>,
    notes: Vec<String>,
    /// How many columns hold axes of the blocks.
    within: usize,
}

impl<'a> Quotes<'a> {
    pub(super) fn new(frame: &Frame, library: &'a Library) -> Self {
        let Frame { sweep, settings, .. } = frame;
        let beside: Vec<Vec<&Published>> =
            frame.groups().map(|group| library.of(sweep, &group.points, &settings.classes)).collect();
        let mut others: Vec<(usize, Vec<&Published>)> = Vec::new();
        let method = sweep.axis("method").filter(|axis| frame.axes.contains(axis));
        if settings.published == Choice::All && method.is_some() {
            let mut start = 0;
            for (block, groups) in frame.blocks.iter().enumerate() {
                let run: Vec<&str> = beside[start..start + groups.len()]
                    .iter()
                    .flatten()
                    .map(|row| row.method.as_str())
                    .collect();
                start += groups.len();
                let points: Vec<usize> = groups.iter().flat_map(|group| group.points.clone()).collect();
                for row in library.beside(sweep, &points, &settings.classes) {
                    if run.contains(&row.method.as_str()) {
                        continue;
                    }
                    match others.iter_mut().find(|(at, rows)| *at == block && rows[0].method == row.method) {
                        Some((_, rows)) => rows.push(row),
                        None => others.push((block, vec![row])),
                    }
                }
            }
        }
        let counted = settings.metrics.iter().any(|metric| metric == PARAMETERS);
        let parameters =
            |group: &Group| if counted { library.parameters(sweep, &group.points) } else { vec![] };
        let parameters: Vec<Vec<(f64, String)>> = frame.groups().map(parameters).collect();
        let mut notes = Vec::new();
        if parameters.iter().all(Vec::is_empty) && beside.iter().all(Vec::is_empty) && others.is_empty() {
            notes.push(if library.knows_data(sweep, &frame.points) {
                "No published row has the settings of a row of this table.".to_owned()
            } else {
                "Nothing is published of this data set: published values are of ACDC and M&Ms.".to_owned()
            });
        }
        let axes: Vec<&str> = frame.axes.iter().map(|&axis| sweep.axes[axis].path.as_str()).collect();
        notes.extend(library.claims(sweep, &frame.points, (&axes, &settings.metrics)));
        Self {
            beside,
            parameters,
            others,
            other_cells: vec![],
            sources: vec![],
            contradictions: vec![],
            notes,
            within: settings.within.len(),
        }
    }

    /// Adds the column of what is published of a metric, where anything is.
    pub(super) fn add_column(&mut self, table: &mut Table, wanted: &Wanted) {
        let metric = wanted.name.as_str();
        let said = |rows: &Vec<&Published>| rows.iter().any(|row| row.value(metric).is_some());
        let counted = metric == PARAMETERS && !self.parameters.iter().all(Vec::is_empty);
        if !counted && !self.beside.iter().any(said) && !self.others.iter().any(|(_, rows)| said(rows)) {
            return;
        }
        // The last metric that was added; its differences may follow it.
        let Some(at) = table.columns.iter().rposition(|column| column.holds == Holds::Metric) else { return };
        for row in 0..table.rows.len() {
            let measured = match &table.rows[row].cells[at] {
                Cell::Value(value) => Some(value.summary.mean),
                _ => None,
            };
            let cell = if counted {
                self.cost(row, measured)
            } else {
                self.cell(&self.beside[row].clone(), metric, measured)
            };
            table.rows[row].cells.push(cell);
        }
        let rows: Vec<Vec<&Published>> = self.others.iter().map(|(_, rows)| rows.clone()).collect();
        let cells = rows.iter().map(|rows| self.cell(rows, metric, None)).collect();
        self.other_cells.push(cells);
        table.columns.push(Column {
            title: "published".into(),
            field: format!("{}_published", table.columns[at].field),
            higher: None,
            holds: Holds::Published,
            metric: None,
        });
    }

    /// The letter of a source, as a number.
    fn source(&mut self, origin: String) -> usize {
        self.sources.iter().position(|known| *known == origin).unwrap_or_else(|| {
            self.sources.push(origin);
            self.sources.len() - 1
        })
    }

    /// The parameters that are published of a row of the table.
    fn cost(&mut self, row: usize, measured: Option<f64>) -> Cell {
        let published = self.parameters[row].clone();
        let quote = |(value, source): (f64, String)| {
            let difference = measured.map(|measured| measured - value);
            Quote { value, sources: vec![self.source(source)], difference }
        };
        let quotes: Vec<Quote> = published.into_iter().map(quote).collect();
        if quotes.is_empty() { Cell::Blank } else { Cell::Published(quotes) }
    }

    /// The values of `rows`, each once, with the letters of their sources.
    fn cell(&mut self, rows: &[&Published], metric: &str, measured: Option<f64>) -> Cell {
        let mut quotes: Vec<(Quote, &Published)> = Vec::new();
        for &row in rows {
            let Some(value) = row.value(metric) else { continue };
            let source = self.source(row.origin());
            if let Some((_, other)) =
                quotes.iter().find(|(quote, other)| quote.value != value && other.same_protocol(row))
            {
                let name = Metric::named(metric).map_or(metric, |metric| metric.name);
                let other = other.value(metric).unwrap_or(value);
                let about = format!("{} of {}, {other} and {value} for the same volumes", name, row.method);
                if !self.contradictions.contains(&about) {
                    self.contradictions.push(about);
                }
            }
            if let Some((quote, _)) = quotes.iter_mut().find(|(quote, _)| quote.value == value) {
                quote.sources.push(source);
            } else {
                let difference = measured.map(|measured| measured - value);
                quotes.push((Quote { value, sources: vec![source], difference }, row));
            }
        }
        if quotes.is_empty() {
            return Cell::Blank;
        }
        Cell::Published(quotes.into_iter().map(|(quote, _)| quote).collect())
    }

    /// Adds the rows of methods that were not run, the sources, and what is to be said.
    pub(super) fn finish(self, table: &mut Table) {
        for (place, (block, rows)) in self.others.iter().enumerate() {
            let mut published = self.other_cells.iter().map(|cells| cells[place].clone());
            let model = table.rows.iter().find(|row| row.block == *block);
            let (mut cells, mut raw) = (Vec::new(), Vec::new());
            for (index, column) in table.columns.iter().enumerate() {
                let name = &rows[0].method;
                match column.holds {
                    Holds::Axis if column.field == "method" => {
                        cells.push(Cell::Text(name.clone()));
                        raw.push(name.clone());
                    }
                    // The axis of the blocks has the value of its block.
                    Holds::Axis => {
                        let known = model.filter(|_| index < self.within);
                        cells.push(known.map_or(Cell::Blank, |row| row.cells[index].clone()));
                        raw.push(known.map_or(String::new(), |row| row.raw[index].clone()));
                    }
                    Holds::Published => cells.push(published.next().unwrap_or(Cell::Blank)),
                    _ => cells.push(Cell::Blank),
                }
            }
            let end =
                table.rows.iter().rposition(|row| row.block == *block).map_or(table.rows.len(), |at| at + 1);
            table.rows.insert(end, Row { block: *block, cells, raw, points: vec![] });
        }
        table.sources = self.sources;
        table.notes = self.notes;
        if !self.contradictions.is_empty() {
            let all = self.contradictions.join("; ");
            table.notes.push(format!("Sources contradict each other, and all are shown: {all}."));
        }
    }
}
