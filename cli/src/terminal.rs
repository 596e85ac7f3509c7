//! Tables and prose, as wide as the terminal.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use std::sync::atomic::{AtomicBool, Ordering};

/// A column of a table.
pub struct Column {
    name: String,
    is_number: bool,
    is_extra: bool,
    meaning: &'static str,
}

/// A column that is aligned to the left.
pub fn text(name: impl Into<String>) -> Column {
    Column { name: name.into(), is_number: false, is_extra: false, meaning: "" }
}

/// A column that is aligned to the right.
pub fn number(name: impl Into<String>) -> Column {
    Column { is_number: true, ..text(name) }
}

impl Column {
    /// Left out where the line has no room for it, before extra columns to its left.
    pub fn extra(self) -> Self {
        Self { is_extra: true, ..self }
    }

    /// What the legend says of it, where it is shown.
    pub fn means(self, meaning: &'static str) -> Self {
        Self { meaning, ..self }
    }

    /// The name in running text; in a header it may have several lines.
    fn in_text(&self) -> String {
        self.name.replace('\n', " ")
    }
}

/// Whether tables have all columns, whatever the width of the terminal.
static WIDE: AtomicBool = AtomicBool::new(false);

/// Settles whether tables have all columns, whatever the width of the terminal.
pub fn set_wide(wide: bool) {
    WIDE.store(wide, Ordering::Relaxed);
}

/// Characters of a line of prose, where nothing narrower is known.
const PROSE: u16 = 120;

/// Characters of a line: as `COLUMNS` or else the terminal says. `None` where standard output is no terminal: programs
/// that read tables want whole cells.
fn line_width() -> Option<u16> {
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| width.0);
    columns.or_else(terminal).filter(|&width| width > 0)
}

/// Characters of a line of prose, such as help.
pub fn prose_width() -> u16 {
    line_width().map_or(PROSE, |width| width.min(PROSE))
}

/// Lines of prose, broken between words.
pub fn prose(text: &str) -> String {
    wrapped(text, prose_width())
}

fn wrapped(text: &str, width: u16) -> String {
    let mut cell = Table::new();
    cell.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    cell.add_row([text]);
    cell.column_iter_mut().for_each(|column| _ = column.set_padding((0, 0)));
    cell.trim_fmt()
}

/// A table as wide as the line allows, then what its columns mean, and which of them there was no room for.
pub fn table(columns: impl Into<Vec<Column>>, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let room = line_width().filter(|_| !WIDE.load(Ordering::Relaxed));
    let (mut text, notes) = fitted(&columns.into(), rows, room);
    for note in notes {
        text += "\n";
        text += &prose(&note);
    }
    text
}

/// A table with all its columns, for a file.
pub fn whole_table(columns: impl Into<Vec<Column>>, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    fitted(&columns.into(), rows, None).0
}

/// The table and the notes below it.
fn fitted(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>, room: Option<u16>) -> (String, Vec<String>) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|column| &column.name)).add_rows(rows);
    let shown = match room {
        Some(room) => shown(columns, &table.column_max_content_widths(), room),
        None => vec![true; columns.len()],
    };
    if let Some(room) = room {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(room);
    }
    for ((drawn, column), &shown) in table.column_iter_mut().zip(columns).zip(&shown) {
        if column.is_number {
            drawn.set_cell_alignment(CellAlignment::Right);
        }
        if !shown {
            drawn.set_constraint(ColumnConstraint::Hidden);
        }
    }
    let of = |wanted: bool| columns.iter().zip(&shown).filter(move |(_, shown)| **shown == wanted).map(|(it, _)| it);
    let explained = of(true).filter(|column| !column.meaning.is_empty());
    let legend: Vec<String> = explained.map(|column| format!("{}: {}", column.in_text(), column.meaning)).collect();
    let left_out: Vec<String> = of(false).map(Column::in_text).collect();
    let mut notes = Vec::new();
    if !legend.is_empty() {
        notes.push(legend.join("; ") + ".");
    }
    if !left_out.is_empty() {
        notes.push(format!("Left out for lack of room: {}. --wide shows every column.", left_out.join(", ")));
    }
    (table.to_string(), notes)
}

/// Which columns have room: extra ones go, the last first, until the line holds the rest.
fn shown(columns: &[Column], widths: &[u16], room: u16) -> Vec<bool> {
    let mut shown = vec![true; columns.len()];
    // A space on either side of a cell, and a line between two of them and at both ends.
    let width = |shown: &[bool]| {
        let cells = widths.iter().zip(shown).filter(|(_, shown)| **shown).map(|(&width, _)| u32::from(width) + 3);
        1 + cells.sum::<u32>()
    };
    while width(&shown) > u32::from(room) {
        let Some(last) = (0..columns.len()).rfind(|&i| shown[i] && columns[i].is_extra) else { break };
        shown[last] = false;
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> [Column; 4] {
        [
            text("name").means("who it is"),
            number("first\nfigure").means("what counts"),
            text("second").extra().means("what counts less"),
            number("third").extra(),
        ]
    }

    /// The table in lines of a width, and the notes below it.
    fn drawn(room: Option<u16>) -> (Vec<String>, Vec<String>) {
        let cells = ["a name of several words", "12345", "some text", "67890"];
        let (table, notes) = fitted(&columns(), [cells.map(String::from).to_vec()], room);
        (table.lines().map(String::from).collect(), notes)
    }

    #[test]
    fn extra_columns_go_before_anything_is_broken() {
        let (whole, notes) = drawn(None);
        assert_eq!(notes, ["name: who it is; first figure: what counts; second: what counts less."]);
        let width = whole[0].chars().count() as u16;
        assert_eq!(drawn(Some(width)).0, whole);
        let (fewer, notes) = drawn(Some(width - 1));
        assert!(fewer[1].contains("second") && !fewer[1].contains("third"), "{fewer:?}");
        assert_eq!(notes[1], "Left out for lack of room: third. --wide shows every column.");
        let (least, notes) = drawn(Some(36));
        assert!(least.iter().all(|line| line.chars().count() <= 36) && !least[1].contains("second"), "{least:?}");
        assert!(least.iter().any(|line| line.contains("a name of several words")), "{least:?}");
        assert_eq!(notes[0], "name: who it is; first figure: what counts.");
        // Narrower still, cells have several lines.
        let narrow = drawn(Some(20)).0;
        assert!(narrow.len() > least.len() && narrow.iter().all(|line| line.chars().count() <= 20), "{narrow:?}");
        for width in 0..20 {
            drawn(Some(width));
        }
    }

    #[test]
    fn prose_is_broken_between_words() {
        assert_eq!(wrapped("one two three\nfour", 8), "one two\nthree\nfour");
        assert_eq!(wrapped("one two three", 80), "one two three");
        assert_eq!(wrapped("", 80), "");
    }
}
