//! Aligned tables for lists.

use unicode_width::UnicodeWidthStr as _;

/// Which side of a column the text stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Figures.
    Right,
}

/// A table: a head, then rows; the last column is never padded, so that long
/// explanations do not widen the others.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row: one text a column.
    pub fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.columns.len(), "one cell a column");
        self.rows.push(cells);
    }

    /// The lines, head first. Columns that are empty in every row are left out.
    pub fn lines(&self) -> Vec<String> {
        let used: Vec<usize> = (0..self.columns.len())
            .filter(|&column| self.rows.iter().any(|row| !row[column].is_empty()))
            .collect();
        let width = |column: usize| {
            let cells = self
                .rows
                .iter()
                .map(|row| row[column].width())
                .max()
                .unwrap_or(0);
            cells.max(self.columns[column].0.width())
        };
        let widths: Vec<usize> = used.iter().map(|&column| width(column)).collect();
        let head: Vec<String> = self
            .columns
            .iter()
            .map(|(name, _)| (*name).to_string())
            .collect();
        std::iter::once(&head)
            .chain(&self.rows)
            .map(|row| {
                let mut line = String::new();
                for (place, (&column, &width)) in used.iter().zip(&widths).enumerate() {
                    let cell = &row[column];
                    let padding = " ".repeat(width - cell.width());
                    if place > 0 {
                        line.push_str("  ");
                    }
                    match self.columns[column].1 {
                        Align::Right => line.extend([padding.as_str(), cell]),
                        Align::Left => line.extend([cell.as_str(), &padding]),
                    }
                }
                line.truncate(line.trim_end().len());
                line
            })
            .collect()
    }
}

/// Named values of one resource, aligned. Values of several lines are indented.
pub fn fields(pairs: &[(&str, String)]) -> Vec<String> {
    let shown = || pairs.iter().filter(|(_, value)| !value.is_empty());
    let width = shown().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    let mut lines = Vec::with_capacity(pairs.len());
    for (name, value) in shown() {
        let mut parts = value.lines();
        let first = parts.next().unwrap_or_default();
        lines.push(format!("{:<width$} {first}", format!("{name}:")));
        lines.extend(parts.map(|part| format!("{:width$} {part}", "")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligns_and_leaves_out_empty_columns() {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("SIZE", Align::Right),
            ("EMPTY", Align::Left),
            ("WHY", Align::Left),
        ]);
        table.row(vec![
            "a".into(),
            "1.0 MiB".into(),
            String::new(),
            String::new(),
        ]);
        table.row(vec![
            "longer 名".into(),
            "5 B".into(),
            String::new(),
            "disk full".into(),
        ]);
        assert_eq!(
            table.lines(),
            [
                "NAME          SIZE  WHY",
                "a          1.0 MiB",
                "longer 名      5 B  disk full"
            ]
        );
    }

    #[test]
    fn fields_are_aligned_and_empty_ones_left_out() {
        let lines = fields(&[
            ("name", "x".into()),
            ("why", String::new()),
            ("warnings", "one\ntwo".into()),
        ]);
        assert_eq!(lines, ["name:     x", "warnings: one", "          two"]);
    }
}
